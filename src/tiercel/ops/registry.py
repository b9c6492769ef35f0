"""Back ends by name. Their libraries are imported when they are asked for."""

from collections.abc import Callable

from tiercel.ops.base import Ops
from tiercel.types import InvalidInput, ModelError


def load_ops(name: str = "reference", *, threads: int | None = None) -> Ops:
    """A back end. threads: how many it may use; None leaves it to the back end.

    Raises InvalidInput for an unknown name, ModelError if its library is not installed.
    """
    if name not in _LOADERS:
        raise InvalidInput("backend", f"must be one of {', '.join(sorted(_LOADERS))}, got {name!r}")
    return _LOADERS[name](threads)


def _reference(threads: int | None) -> Ops:
    try:
        from tiercel.ops.reference import ReferenceOps
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModelError("the reference back end needs torch: pip install 'tiercel[reference]'") from error
    return ReferenceOps(threads)


_LOADERS: dict[str, Callable[[int | None], Ops]] = {"reference": _reference}
