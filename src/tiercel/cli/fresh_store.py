"""A KV store that lasts as long as a command: empty at its start, removed at its end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from tiercel.config import EngineConfig, resolve_disk
from tiercel.types import InvalidInput


@contextmanager
def fresh_store(config: EngineConfig) -> Iterator[EngineConfig]:
    """Yields the settings with the store in a new folder: inside the one the user named, else in the user's cache folder.

    Settings that want no store are yielded as they are. Raises InvalidInput where no folder can be made.
    """
    plan = resolve_disk(config)
    if config.kv_disk == "off":
        yield config
        return
    parent = Path(gettempdir()) if plan is None else plan.path if plan.explicit else plan.path.parent
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix="fresh-", dir=parent, ignore_cleanup_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInput("kv_disk", f"cannot make a folder in {parent}: {reason}; name another one") from error
    with folder as path:
        yield config.model_copy(update={"kv_disk": path if plan is None else f"{path}:{plan.capacity}"})
