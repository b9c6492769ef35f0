"""What a store holds, read from the objects themselves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

from tiercel.kv.objects import (
    ALIGNMENT,
    LARGEST_OBJECT,
    ObjectError,
    ObjectHeader,
    check_identity,
    check_object,
    decode_header,
    header_end,
    object_bytes,
    parse_tokens,
)
from tiercel.stores import Entry, Read, Status, Store
from tiercel.types import BLOCK_TOKENS, BlockHash


def read_headers(store: Store, namespace: str | None = None) -> Iterator[tuple[Entry, ObjectHeader | ObjectError]]:
    """Every object with its header, or with why it cannot be used. Payloads are not read, only their length is checked.

    Objects that others remove meanwhile are left out. Raises OSError where the store cannot be listed.
    """
    for entry in store.list(namespace):
        try:
            header = _read_header(store, entry)
        except ObjectError as error:
            yield entry, error
        else:
            if header is not None:
                yield entry, header


def read_object(store: Store, entry: Entry) -> memoryview | None:
    """All bytes of an object, each of them checked; None where it is gone. Raises ObjectError."""
    if entry.bytes > LARGEST_OBJECT:
        raise ObjectError("corrupt", f"it has {entry.bytes} bytes, more than any object")
    data = _read(store, entry, entry.bytes)
    if data is not None:
        check_object(data, entry.key)
    return data


@dataclass(frozen=True)
class Damage:
    """An object that fails its check, and how."""

    entry: Entry
    error: ObjectError


@dataclass(frozen=True)
class Verified:
    """objects, bytes: what was checked, damaged ones too; removed: how many of the damaged ones are gone now."""

    objects: int
    bytes: int
    damaged: tuple[Damage, ...]
    removed: int


def verify(
    store: Store, namespace: str | None = None, *, repair: bool = False, progress: Callable[[int], None] | None = None
) -> Verified:
    """Checks every byte of every object. repair: removes what fails; progress: is told the bytes checked so far.

    Raises OSError where the store cannot be listed.
    """
    objects = checked = 0
    damaged = []
    for entry in store.list(namespace):
        try:
            if read_object(store, entry) is None:
                continue
        except ObjectError as error:
            damaged.append(Damage(entry, error))
        objects += 1
        checked += entry.bytes
        if progress is not None:
            progress(checked)
    results = store.delete([damage.entry.key for damage in damaged], inf) if repair else []
    return Verified(objects, checked, tuple(damaged), sum(result.status is Status.OK for result in results))


@dataclass(frozen=True)
class Chain:
    """A stored block that continues no other, and all that continues it: prompts with the same beginning are one chain.

    first_position: of the first token stored, 0 unless the beginning is gone; tokens: end of the longest continuation, counted
    from the very start; ends: continuations that part from each other; first_tokens: ids of the first block; blocks counts a
    block once, however many groups and shards of it there are; bytes: all of them.
    """

    namespace: str
    first_hash: BlockHash
    first_position: int
    first_tokens: tuple[int, ...]
    tokens: int
    blocks: int
    ends: int
    bytes: int


_Name = tuple[str, BlockHash]  # of a block, over all its groups and shards


@dataclass
class _Block:
    parent: _Name
    position: int
    tokens: bytes
    bytes: int = 0
    continued: bool = False


def chains(store: Store, namespace: str | None = None) -> list[Chain]:
    """The chains of a store, by namespace and from the longest on. Objects without a sound header are left out."""
    blocks: dict[_Name, _Block] = {}
    for entry, header in read_headers(store, namespace):
        if isinstance(header, ObjectError):
            continue
        name = header.namespace, entry.key.block_hash
        parent = header.namespace, BlockHash(header.parent)
        block = blocks.setdefault(name, _Block(parent, header.first_position, header.tokens))
        block.bytes += entry.bytes
    members: dict[_Name, list[_Block]] = {}
    for head, block in _with_heads(blocks):
        members.setdefault(head, []).append(block)
    found = [_chain(head, blocks[head], parts) for head, parts in members.items()]
    return sorted(found, key=lambda chain: (chain.namespace, -chain.tokens, chain.first_hash))


def _with_heads(blocks: dict[_Name, _Block]) -> Iterator[tuple[_Name, _Block]]:
    """Every block behind the name of the one its chain begins with."""
    heads: dict[_Name, _Name] = {}
    for name, block in blocks.items():
        at, way = name, [name]
        while at not in heads and blocks[at].parent in blocks:  # ends: a hash cannot follow from itself
            at = blocks[at].parent
            blocks[at].continued = True
            way.append(at)
        head = heads.get(at, at)
        heads.update(dict.fromkeys(way, head))
        yield head, block


def _chain(name: _Name, first: _Block, blocks: list[_Block]) -> Chain:
    return Chain(
        namespace=name[0],
        first_hash=name[1],
        first_position=first.position,
        first_tokens=tuple(parse_tokens(first.tokens)),
        tokens=max(block.position for block in blocks) + BLOCK_TOKENS,
        blocks=len(blocks),
        ends=sum(not block.continued for block in blocks),
        bytes=sum(block.bytes for block in blocks),
    )


def _read_header(store: Store, entry: Entry) -> ObjectHeader | None:
    data = _read(store, entry, ALIGNMENT)
    if data is not None and header_end(data) > len(data):
        data = _read(store, entry, header_end(data))
    if data is None:
        return None
    header = decode_header(data)
    check_identity(header, entry.key)
    if entry.bytes != object_bytes(header.layout):
        raise ObjectError("corrupt", f"it has {entry.bytes} bytes where its layout takes {object_bytes(header.layout)}")
    return header


def _read(store: Store, entry: Entry, length: int) -> memoryview | None:
    """The first bytes of an object, as many as there are; None where it is gone. Raises ObjectError."""
    buffer = memoryview(bytearray(min(length, entry.bytes)))
    result = store.get([Read(entry.key, 0, (buffer,))], inf)[0]
    if result.status is Status.MISSING:
        return None
    if result.status is not Status.OK:
        raise ObjectError("corrupt", f"it cannot be read: {result.detail or result.status.value}")
    return buffer[: result.bytes]
