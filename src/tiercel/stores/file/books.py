"""What a process believes a store's folder to hold, in order of use."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

from tiercel.stores.file.log import GONE, PUT, USED, Line


class Books:
    """Names and sizes of objects, used longest ago first. Being told a thing twice changes nothing."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self.bytes = 0

    def apply(self, line: Line) -> None:
        """Takes note of a put, a use or a removal."""
        if line.action in (PUT, GONE):
            self.bytes -= self._sizes.pop(line.name, 0)
        if line.action == PUT:
            self._sizes[line.name] = line.bytes
            self.bytes += line.bytes
        if line.action == USED and line.name in self._sizes:
            self._sizes.move_to_end(line.name)

    def correct(self, held: Mapping[str, int], order: Iterable[str]) -> None:
        """Starts anew from `held`, the sizes that were seen. order: names as they were used; those not named come first."""
        last_mentions = reversed(dict.fromkeys(reversed([*order])))
        sizes = OrderedDict(held)
        for name in last_mentions:
            if name in sizes:
                sizes.move_to_end(name)
        self._sizes, self.bytes = sizes, sum(sizes.values())

    def oldest(self) -> tuple[str, int] | None:
        """Name and size of what was used longest ago."""
        return next(iter(self._sizes.items()), None)

    def size(self, name: str) -> int | None:
        """Bytes of an object; None where there is none."""
        return self._sizes.get(name)

    def names(self) -> Iterator[str]:
        """In order of use."""
        return iter(self._sizes)

    def lines(self) -> Iterator[Line]:
        """A log that says the same."""
        return (Line(PUT, name, size) for name, size in self._sizes.items())
