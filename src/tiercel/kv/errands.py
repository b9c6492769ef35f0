"""Small things that the writer does for a store between blocks. If one fails, nobody misses it."""

from collections.abc import Callable
from itertools import islice
from queue import SimpleQueue

from tiercel.kv.catalog import read_headers
from tiercel.kv.movers import WriteJob
from tiercel.kv.objects import ObjectHeader
from tiercel.stores import Store

_HEADERS_AT_ONCE = 16


class Errand(WriteJob):
    """One call."""

    def __init__(self, deed: Callable[[], object]) -> None:
        super().__init__()
        self._deed = deed

    def run(self) -> bool:
        self._deed()
        return False

    def fail(self, error: Exception) -> None:
        pass


class Introduce(Errand):
    """Tells the store what this engine's namespace is, and learns which others it knows. others: id -> description."""

    def __init__(self, store: Store, namespace: str, description: bytes) -> None:
        super().__init__(self._introduce)
        self.others: dict[str, bytes] = {}
        self._store = store
        self._namespace = namespace
        self._description = description

    def _introduce(self) -> None:
        self._store.describe(self._namespace, self._description)
        self.others = {name: text for name, text in self._store.namespaces().items() if name != self._namespace}


class Recall(WriteJob):
    """Reads the headers of what the store holds in a namespace, a few at a time. found: filled while it runs."""

    def __init__(self, store: Store, namespace: str, limit: int) -> None:
        super().__init__()
        self.found: SimpleQueue[ObjectHeader] = SimpleQueue()
        self._headers = islice(read_headers(store, namespace), limit)

    def run(self) -> bool:
        batch = list(islice(self._headers, _HEADERS_AT_ONCE))
        for _, header in batch:
            if isinstance(header, ObjectHeader):
                self.found.put(header)
        return len(batch) == _HEADERS_AT_ONCE

    def fail(self, error: Exception) -> None:
        pass
