"""Portable packs: stored blocks in one file, to carry them to another machine or to keep them.

A pack is a plain tar file. Its first member is the manifest, `tiercel-pack.json`; each further one is an object as a store has
it, named `NAMESPACE/HASH-gGROUP-hFIRST+COUNT.kv`. Blocks stand behind those they continue, so that the rest of a pack that was
cut short is of use.

A reader trusts nothing in a pack but its arithmetic: names are parsed by one pattern and never become paths, every byte of an
object is checked before it is stored, and no header makes it hold more than one object in memory. What no check can find out is
whether keys and values were computed honestly: a pack deserves as much trust as who made it.
"""

import io
import os
import re
import tarfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

import msgspec

from tiercel.kv.archive import FILE_TYPES, Broken, Members
from tiercel.kv.catalog import read_headers, read_object
from tiercel.kv.objects import LARGEST_OBJECT, ObjectError, check_object
from tiercel.stores import Entry, Status, Store, Write
from tiercel.types import FORMAT_VERSION, BlockHash, BlockKey, TiercelError

PACK_VERSION = 1
MANIFEST_NAME = "tiercel-pack.json"

_LARGEST_MANIFEST = 1 << 24
_LARGEST_DESCRIPTION = 1 << 12
_MOST_DETAILS = 5
_NUMBER = r"(0|[1-9][0-9]{0,8})"
_MEMBER_NAME = re.compile(rf"([0-9a-f]{{32}})/([0-9a-f]{{64}})-g{_NUMBER}-h{_NUMBER}\+{_NUMBER}\.kv")


class PackError(TiercelError):
    """A file that is no pack, or a pack that cannot be read or written."""


class PackManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a pack is. namespaces: their ids, with what their store said of them (base64 in the file)."""

    pack_version: int
    format_version: int
    namespaces: dict[str, bytes]


@dataclass(frozen=True)
class Exported:
    """What went into a pack. skipped: objects of the store that failed their check."""

    objects: int
    bytes: int
    skipped: int


@dataclass
class Imported:
    """What came of a pack's members.

    objects, bytes: new in the store; known: were there already; refused: failed their check; ignored: no objects; not_stored:
    sound, and the store did not take them; cut_short: the pack ends, or stops making sense, before its end. details: the first
    few reasons, as sentences.
    """

    objects: int = 0
    bytes: int = 0
    known: int = 0
    refused: int = 0
    ignored: int = 0
    not_stored: int = 0
    cut_short: bool = False
    details: list[str] = field(default_factory=list)

    def note(self, detail: str) -> None:
        if len(self.details) < _MOST_DETAILS:
            self.details.append(detail)


def member_name(key: BlockKey) -> str:
    first, count = key.heads
    return f"{key.namespace}/{key.block_hash.hex()}-g{key.group}-h{first}+{count}.kv"


def parse_member_name(name: str) -> BlockKey | None:
    """The key that a member's name spells; None unless it is spelled exactly as `member_name` does."""
    match = _MEMBER_NAME.fullmatch(name)
    if match is None:
        return None
    namespace, block_hash, group, first, count = match.groups()
    return BlockKey(namespace, BlockHash(bytes.fromhex(block_hash)), int(group), (int(first), int(count)))


# -- export -------------------------------------------------------------------------------------------------------------------


def export_pack(
    store: Store, path: Path, *, namespace: str | None = None, keys: Collection[BlockKey] | None = None
) -> Exported:
    """Writes what a store holds, or one namespace, or some keys of it, into a new file that only its owner can read.

    The file appears whole or not at all, and takes the place of another one. Raises PackError, and OSError where the store
    cannot be listed.
    """
    if path.exists() and not path.is_file():
        raise PackError(f"{path} is not a regular file; name another")
    chosen, skipped = _choose(store, namespace, keys)
    descriptions = store.namespaces()
    present = sorted({entry.key.namespace for entry in chosen})
    manifest = PackManifest(
        pack_version=PACK_VERSION,
        format_version=FORMAT_VERSION,
        namespaces={name: descriptions.get(name, b"") for name in present},
    )
    objects = size = 0
    with _new_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        _add(tar, MANIFEST_NAME, msgspec.json.encode(manifest))
        for entry in chosen:
            try:
                data = read_object(store, entry)
            except ObjectError:
                skipped += 1
                continue
            if data is not None:
                _add(tar, member_name(entry.key), data)
                objects, size = objects + 1, size + entry.bytes
    return Exported(objects, size, skipped)


def _choose(store: Store, namespace: str | None, keys: Collection[BlockKey] | None) -> tuple[list[Entry], int]:
    """What to export, parents before children, and how many objects have no sound header."""
    found: list[tuple[int, Entry]] = []
    skipped = 0
    for entry, header in read_headers(store, namespace):
        if keys is not None and entry.key not in keys:
            continue
        if isinstance(header, ObjectError):
            skipped += 1
        else:
            found.append((header.first_position, entry))
    found.sort(key=lambda each: (each[1].key.namespace, each[0], each[1].key))
    return [entry for _, entry in found], skipped


def _add(tar: tarfile.TarFile, name: str, data: bytes | memoryview) -> None:
    """The same objects make the same pack: no times, no users."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    tar.addfile(info, io.BytesIO(data))


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name once it is whole; of one that fails nothing is left. Raises PackError."""
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=".tiercel-pack-", delete=False) as file:  # mode 0600
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise PackError(f"{path} cannot be written: {error.strerror or error}") from error


# -- import -------------------------------------------------------------------------------------------------------------------


def import_pack(store: Store, path: Path) -> Imported:
    """Puts the sound objects of a pack into a store. Raises PackError where `path` is no pack or is larger than the store."""
    try:
        with path.open("rb") as file:
            members = Members(file)
            manifest = _read_manifest(members, path)
            _check_room(store, path)
            return _take_all(store, members, manifest)
    except OSError as error:
        raise PackError(f"{path} cannot be imported: {error.strerror or error}") from error


def _read_manifest(members: Members, path: Path) -> PackManifest:
    try:
        first = members.next()
        if first is None or first.name != MANIFEST_NAME or first.size > _LARGEST_MANIFEST:
            raise PackError(f"{path} is not a pack: a pack is a plain tar file that begins with {MANIFEST_NAME}")
        manifest = msgspec.json.decode(members.read(), type=PackManifest)
    except (Broken, ValueError, RecursionError) as error:
        raise PackError(f"{path} is not a pack, or its beginning is damaged: {error}") from error
    if (manifest.pack_version, manifest.format_version) != (PACK_VERSION, FORMAT_VERSION):
        raise PackError(
            f"{path} is a pack of version {manifest.pack_version} with blocks of format version {manifest.format_version}; "
            f"this Tiercel reads version {PACK_VERSION} with format version {FORMAT_VERSION}: export it with the same Tiercel"
        )
    return manifest


def _check_room(store: Store, path: Path) -> None:
    capacity, size = store.usage().capacity, path.stat().st_size
    if capacity is not None and size > capacity:  # its end would push out its beginning, without which it is of no use
        raise PackError(f"{path} has {size:,} bytes and the store holds at most {capacity:,}: give the store a larger size")


def _take_all(store: Store, members: Members, manifest: PackManifest) -> Imported:
    imported = Imported()
    taken: list[BlockKey] = []
    described: set[str] = set()
    try:
        while (member := members.next()) is not None:
            key = parse_member_name(member.name) if member.type in FILE_TYPES else None
            if key is None:
                imported.ignored += 1
            elif member.size > LARGEST_OBJECT:
                imported.refused += 1
                imported.note(f"{member.name}: it has {member.size} bytes, more than any object")
            elif _take(store, key, members.read(), imported):
                taken.append(key)
                if key.namespace not in described:
                    described.add(key.namespace)
                    _describe(store, key.namespace, manifest)
    except Broken as broken:
        imported.cut_short = True
        imported.note(str(broken))
    store.touch(taken[::-1])  # beginnings are worth more than what continues them
    return imported


def _take(store: Store, key: BlockKey, data: memoryview, imported: Imported) -> bool:
    """Whether the object is sound and in the store now."""
    try:
        check_object(data, key)
    except ObjectError as error:
        imported.refused += 1
        imported.note(f"{member_name(key)}: {error}")
        return False
    if store.exists([key], inf)[0]:
        imported.known += 1
        return True
    result = store.put([Write(key, (data,))], inf)[0]
    if result.status is not Status.OK:
        imported.not_stored += 1
        imported.note(f"{member_name(key)}: the store did not take it: {result.detail or result.status.value}")
        return False
    imported.objects += 1
    imported.bytes += len(data)
    return True


def _describe(store: Store, namespace: str, manifest: PackManifest) -> None:
    description = manifest.namespaces.get(namespace, b"")
    if 0 < len(description) <= _LARGEST_DESCRIPTION:
        store.describe(namespace, description)
