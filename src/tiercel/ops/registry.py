"""Back ends by name. Their libraries are imported when they are asked for."""

from collections.abc import Callable
from typing import NamedTuple, cast

from tiercel.ops.base import Ops
from tiercel.types import InvalidInput, ModelError


class Options(NamedTuple):
    """threads: how many a back end may use, None leaves it to the back end; dtype: format of weights; isa: instruction set."""

    threads: int | None
    dtype: str
    isa: str


def load_ops(name: str = "reference", *, threads: int | None = None, dtype: str = "auto", isa: str = "auto") -> Ops:
    """A back end. dtype and isa concern the cpu back end: see `CpuOps`.

    Raises InvalidInput for an unknown name, ModelError if its library is not installed.
    """
    if name not in _LOADERS:
        raise InvalidInput("backend", f"must be one of {', '.join(sorted(_LOADERS))}, got {name!r}")
    return _LOADERS[name](Options(threads, dtype, isa))


def native_reason() -> str:
    """Why the cpu back end cannot be used here, in one line; empty if it can."""
    from tiercel.ops.cpu.library import best_level

    try:
        best_level()
    except ModelError as error:
        return str(error)
    return ""


def _reference(options: Options) -> Ops:
    try:
        from tiercel.ops.reference import ReferenceOps
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModelError("the reference back end needs torch: pip install 'tiercel[reference]'") from error
    return ReferenceOps(options.threads)


def _cpu(options: Options) -> Ops:
    from tiercel.ops.cpu import CpuOps
    from tiercel.ops.cpu.packing import PackedDtype

    dtype = cast(PackedDtype, "stored" if options.dtype == "auto" else options.dtype)
    return CpuOps(options.threads, options.isa, dtype)


_LOADERS: dict[str, Callable[[Options], Ops]] = {"reference": _reference, "cpu": _cpu}
