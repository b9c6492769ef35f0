"""The folders of a file store: made for one user alone, listed, and emptied of what is ours and nothing else."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from tiercel.stores.file.names import is_namespace, object_key, version_number
from tiercel.types import BlockKey

DESCRIPTION = "description"  # in a namespace's folder
USAGE_LOG = "usage.log"  # these three: in a version's folder
SWEEP_LOCK = "sweep.lock"
TEMPORARY = "tmp"


class StoredObject(NamedTuple):
    """name: path inside the version's folder; bytes: its size."""

    name: str
    key: BlockKey
    bytes: int


class Amount(NamedTuple):
    """How much there is of something."""

    objects: int
    bytes: int


def claim(root: Path) -> None:
    """Makes the folder of a store unless it is there. Raises OSError if it cannot be, or if other users could write to it."""
    make_folder(root)
    info = root.stat()
    if info.st_uid != os.geteuid():
        raise PermissionError(f"{root} belongs to another user (uid {info.st_uid}); name a folder of your own")
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(
            f"other users may write to {root}; name a folder inside it, which will be yours alone, or run: chmod go-w {root}"
        )


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, for this user alone. Nothing happens where it is there. Raises OSError."""
    missing = takewhile(lambda path: not path.is_dir(), [folder, *folder.parents])
    for path in reversed([*missing]):
        try:
            path.mkdir(mode=0o700)
            path.chmod(0o700)  # whatever the umask took away
        except FileExistsError:
            if not path.is_dir():
                raise NotADirectoryError(f"{path} is not a folder") from None


def versions(root: Path) -> dict[int, Path]:
    """The format versions that have a folder, oldest first."""
    numbered = ((version_number(entry.name), Path(entry.path)) for entry in _folders(root))
    return dict(sorted((number, folder) for number, folder in numbered if number is not None))


def namespace_folders(folder: Path) -> Iterator[Path]:
    """The folders of the namespaces in a version's folder."""
    return (Path(entry.path) for entry in _folders(folder) if is_namespace(entry.name))


def stored_objects(folder: Path, namespace: str | None = None) -> Iterator[StoredObject]:
    """The objects in a version's folder. What has no object's name, or is not a plain file, is passed over. Raises OSError."""
    for space in namespace_folders(folder):
        if namespace in (None, space.name):
            for shelf in _folders(space):
                for entry in _entries(shelf.path):
                    found = _stored_object(space.name, shelf.name, entry)
                    if found is not None:
                        yield found


def amount(folder: Path) -> Amount:
    """How many objects a version's folder holds, and their bytes. Raises OSError."""
    sizes = [found.bytes for found in stored_objects(folder)]
    return Amount(len(sizes), sum(sizes))


def remove_object(folder: Path, name: str) -> bool:
    """Removes an object, and its folders where they are empty then. False where there was none. Raises OSError."""
    path = folder / name
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    with suppress(OSError):  # mostly: not empty
        path.parent.rmdir()
        path.parent.parent.rmdir()
    return True


def remove_version(folder: Path) -> Amount:
    """Removes what is ours of a version, and its folder where nothing else is in it. Raises OSError."""
    removed = [found.bytes for found in stored_objects(folder) if remove_object(folder, found.name)]
    for space in namespace_folders(folder):
        _remove_rest(space, [DESCRIPTION])
    _remove_rest(folder / TEMPORARY, [])
    _remove_rest(folder, [USAGE_LOG, SWEEP_LOCK])
    return Amount(len(removed), sum(removed))


def _remove_rest(folder: Path, files: list[str]) -> None:
    """Removes our files from a folder, and the folder where nothing else is in it."""
    with suppress(OSError):  # mostly: not empty
        for file in files:
            (folder / file).unlink(missing_ok=True)
        folder.rmdir()


def _stored_object(namespace: str, shelf: str, entry: os.DirEntry[str]) -> StoredObject | None:
    key = object_key(namespace, entry.name)
    if key is None or entry.name[:2] != shelf:
        return None
    try:
        info = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None  # it went while we looked
    return StoredObject(f"{namespace}/{shelf}/{entry.name}", key, info.st_size) if stat.S_ISREG(info.st_mode) else None


def _folders(path: Path) -> Iterator[os.DirEntry[str]]:
    return (entry for entry in _entries(path) if entry.is_dir(follow_symlinks=False))


def _entries(path: Path | str) -> list[os.DirEntry[str]]:
    """What lies in a folder; nothing, where the folder is gone."""
    try:
        with os.scandir(path) as entries:
            return [*entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
