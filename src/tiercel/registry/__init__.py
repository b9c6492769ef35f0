"""Look-up tables from a name to the object that serves it, imported on first use."""

from collections.abc import Iterator
from importlib import import_module

from tiercel.types import InvalidInput


class Registry:
    """Names of one kind of thing. Values are "module:attribute", so that listing names imports nothing."""

    def __init__(self, kind: str, entries: dict[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def register(self, name: str, target: str) -> None:
        """Adds an entry, `target` being "module:attribute". Raises ValueError if the name is taken."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is already registered")
        self._entries[name] = target

    def load(self, name: str) -> object:
        """The object behind a name. Raises InvalidInput listing the known names."""
        if name not in self._entries:
            raise InvalidInput(self.kind, f"unknown {self.kind} {name!r}; known: {', '.join(self)}")
        module, _, attribute = self._entries[name].partition(":")
        return getattr(import_module(module), attribute)


__all__ = ["Registry"]
