"""Traces of steps and of calls to a store."""

import json
import threading
from pathlib import Path

from tiercel.bench.trace import Trace, TracedPhases, TracedStore
from tiercel.stores import MemoryStore, NullStore, Read, Status, Store, Write
from tiercel.types import BlockHash, BlockKey

KEY = BlockKey("0" * 32, BlockHash(b"h" * 32), 0, (0, 1))
LATER = float("inf")


def public_methods(store: type[object]) -> set[str]:
    return {name for name in vars(store) if not name.startswith("_") and callable(getattr(store, name))}


def test_a_traced_store_is_the_store_with_a_span_for_every_call() -> None:
    trace = Trace()
    store = TracedStore(MemoryStore(), trace)
    buffer = bytearray(3)
    assert store.put([Write(KEY, (memoryview(b"abc"),))], LATER)[0].status is Status.OK
    assert store.exists([KEY], LATER) == [True]
    assert store.get([Read(KEY, 0, (memoryview(buffer),))], LATER)[0].bytes == 3
    store.touch([KEY])
    store.describe(KEY.namespace, b"text")
    assert store.namespaces() == {KEY.namespace: b"text"}
    assert [entry.key for entry in store.list()] == [KEY]
    assert store.usage().objects == 1
    store.check_integrity()
    assert store.delete([KEY], LATER)[0].status is Status.OK
    assert store.clear() == 0
    store.close()
    assert bytes(buffer) == b"abc"
    assert store.name == "memory"
    assert {span.name for span in trace.spans} == public_methods(NullStore) == public_methods(TracedStore)
    assert all(span.kind == "store" and span.start <= span.end for span in trace.spans)


def test_a_call_that_fails_is_a_span_too() -> None:
    class Broken(MemoryStore):
        def usage(self) -> None:
            raise OSError("gone")

    trace = Trace()
    store: Store = TracedStore(Broken(), trace)
    try:
        store.usage()
    except OSError:
        failed = True
    assert failed
    assert [span.name for span in trace.spans] == ["usage"]


def test_spans_know_their_thread() -> None:
    trace = Trace()
    with trace.span("store", "here"):
        pass
    other = threading.Thread(target=trace.add, args=("store", "there", 0.0, 1.0))
    other.start()
    other.join()
    assert [span.name for span in trace.on_this_thread("store")] == ["here"]
    assert trace.on_this_thread("engine") == []


def test_phases_add_up_and_are_spans() -> None:
    trace = Trace()
    phases = TracedPhases(trace, {"execute": 1.0})
    phases["execute"] += 0.5
    phases["update"] += 0.25
    assert phases == {"execute": 1.5, "update": 0.25}
    assert {span.name: round(span.end - span.start, 9) for span in trace.spans} == {"execute": 0.5, "update": 0.25}


def test_the_file_is_in_trace_event_format(tmp_path: Path) -> None:
    trace = Trace()
    trace.add("engine", "step", 10.0, 10.5)
    trace.add("store", "put", 10.25, 10.5)
    trace.save(tmp_path / "trace.json")
    name, step, put = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert (name["ph"], name["name"], name["args"]) == ("M", "thread_name", {"name": threading.current_thread().name})
    assert (step["ph"], step["cat"], step["name"], step["ts"], step["dur"]) == ("X", "engine", "step", 0.0, 500_000.0)
    assert (put["cat"], put["ts"], put["dur"], put["tid"]) == ("store", 250_000.0, 250_000.0, step["tid"])
