"""What things are called on disk. Names are the same in all format versions; only what is in an object changes."""

import re

from tiercel.types import BlockHash, BlockKey

_NUMBER = "(0|[1-9][0-9]{0,8})"
_OBJECT = re.compile(rf"([0-9a-f]{{64}})-g{_NUMBER}-h{_NUMBER}\+{_NUMBER}\.kv")
_NAMESPACE = re.compile(r"[0-9a-f]{32}")
_VERSION = re.compile(f"v{_NUMBER}")


def object_name(key: BlockKey) -> str:
    """Path of an object inside its version's folder. Raises ValueError for what cannot be a key: no name leads elsewhere."""
    digest = key.block_hash.hex()
    file = f"{digest}-g{key.group}-h{key.heads[0]}+{key.heads[1]}.kv"
    if not is_namespace(key.namespace) or object_key(key.namespace, file) != key:
        raise ValueError(f"no file can be named after {key}")
    return f"{key.namespace}/{digest[:2]}/{file}"


def object_key(namespace: str, file: str) -> BlockKey | None:
    """The key of the object in `file`; None where that is not an object's name."""
    match = _OBJECT.fullmatch(file)
    if match is None:
        return None
    return BlockKey(namespace, BlockHash(bytes.fromhex(match[1])), int(match[2]), (int(match[3]), int(match[4])))


def is_namespace(name: str) -> bool:
    """Whether this is a namespace's id, and so the name of its folder."""
    return _NAMESPACE.fullmatch(name) is not None


def version_number(name: str) -> int | None:
    """1 for "v1"; None where that is not the name of a version's folder."""
    match = _VERSION.fullmatch(name)
    return None if match is None else int(match[1])
