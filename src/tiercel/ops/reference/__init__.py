"""The reference back end, in torch."""

from tiercel.ops.reference.backend import ReferenceOps

__all__ = ["ReferenceOps"]
