"""What happened when on which thread: the engine's steps and the calls to its store, as events that trace viewers show."""

import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from tiercel.engine import EngineCore
from tiercel.stores import Entry, Read, Result, Store, Usage, Write
from tiercel.types import BlockKey

MICRO = 1e6


@contextmanager
def traced(core: EngineCore) -> Iterator["Trace"]:
    """Yields a trace that fills as long as the context lasts: the phases of an engine's steps, and the calls to its store."""
    tier = core.manager.tier
    assert tier is not None, "an engine with a store"
    trace, store, timings = Trace(), tier.store, core.timings
    tier.store, core.timings = TracedStore(store, trace), TracedPhases(trace, timings)
    try:
        yield trace
    finally:
        tier.store, core.timings = store, timings


class Span(NamedTuple):
    """kind: "engine" or "store"; start, end: `time.perf_counter()`; thread: its id in the operating system."""

    kind: str
    name: str
    start: float
    end: float
    thread: int


class Trace:
    """Collects spans, from any thread."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._threads: dict[int, str] = {}

    def add(self, kind: str, name: str, start: float, end: float) -> None:
        """A span on the calling thread."""
        thread = threading.get_native_id()
        self._threads.setdefault(thread, threading.current_thread().name)
        self.spans.append(Span(kind, name, start, end, thread))

    def on_this_thread(self, kind: str) -> list[Span]:
        """The spans of a kind that happened on the calling thread."""
        return [span for span in self.spans if span.kind == kind and span.thread == threading.get_native_id()]

    @contextmanager
    def span(self, kind: str, name: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self.add(kind, name, start, perf_counter())

    def save(self, path: Path) -> None:
        """Writes Trace Event Format, which Perfetto and chrome://tracing show. Raises OSError."""
        zero = min((span.start for span in self.spans), default=0.0)
        process = os.getpid()
        names = [
            {"ph": "M", "name": "thread_name", "pid": process, "tid": thread, "args": {"name": name}}
            for thread, name in self._threads.items()
        ]
        events = [
            {
                "ph": "X",
                "cat": span.kind,
                "name": span.name,
                "ts": (span.start - zero) * MICRO,
                "dur": (span.end - span.start) * MICRO,
                "pid": process,
                "tid": span.thread,
            }
            for span in self.spans
        ]
        path.write_text(json.dumps({"traceEvents": names + events, "displayTimeUnit": "ms"}))


class TracedPhases(defaultdict[str, float]):
    """An engine's seconds by phase, each of whose additions is also a span that ends now."""

    def __init__(self, trace: Trace, seconds: Mapping[str, float]) -> None:
        super().__init__(float, seconds)
        self._trace = trace

    def __setitem__(self, phase: str, total: float) -> None:
        end = perf_counter()
        self._trace.add("engine", phase, end - (total - self.get(phase, 0.0)), end)
        super().__setitem__(phase, total)


class TracedStore:
    """A store whose calls are spans."""

    def __init__(self, store: Store, trace: Trace) -> None:
        self.name = store.name
        self._store = store
        self._trace = trace

    def exists(self, keys: Sequence[BlockKey], deadline: float) -> list[bool]:
        with self._trace.span("store", "exists"):
            return self._store.exists(keys, deadline)

    def get(self, reads: Sequence[Read], deadline: float) -> list[Result]:
        with self._trace.span("store", "get"):
            return self._store.get(reads, deadline)

    def put(self, writes: Sequence[Write], deadline: float) -> list[Result]:
        with self._trace.span("store", "put"):
            return self._store.put(writes, deadline)

    def delete(self, keys: Sequence[BlockKey], deadline: float) -> list[Result]:
        with self._trace.span("store", "delete"):
            return self._store.delete(keys, deadline)

    def touch(self, keys: Sequence[BlockKey]) -> None:
        with self._trace.span("store", "touch"):
            self._store.touch(keys)

    def list(self, namespace: str | None = None) -> Iterator[Entry]:
        with self._trace.span("store", "list"):
            return self._store.list(namespace)

    def describe(self, namespace: str, description: bytes) -> None:
        with self._trace.span("store", "describe"):
            self._store.describe(namespace, description)

    def namespaces(self) -> Mapping[str, bytes]:
        with self._trace.span("store", "namespaces"):
            return self._store.namespaces()

    def clear(self, namespace: str | None = None) -> int:
        with self._trace.span("store", "clear"):
            return self._store.clear(namespace)

    def usage(self) -> Usage:
        with self._trace.span("store", "usage"):
            return self._store.usage()

    def check_integrity(self) -> None:
        with self._trace.span("store", "check_integrity"):
            self._store.check_integrity()

    def close(self) -> None:
        with self._trace.span("store", "close"):
            self._store.close()
