"""What a process believes a store's folder to hold, in order of use."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

from tiercel.stores.file.log import PUT, Line


class Books:
    """Names and sizes of objects, used longest ago first. Being told a thing twice changes nothing."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self.bytes = 0

    def apply(self, line: Line) -> None:
        """Takes note of a put or a use."""
        if line.action == PUT:
            self.remove(line.name)
            self._sizes[line.name] = line.bytes
            self.bytes += line.bytes
        elif line.name in self._sizes:
            self._sizes.move_to_end(line.name)

    def remove(self, name: str) -> None:
        """Strikes out an object, if it is there."""
        self.bytes -= self._sizes.pop(name, 0)

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
