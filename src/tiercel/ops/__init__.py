"""One signature per operation, several back ends."""

from tiercel.ops.base import Handle, Ops, StepHandles

__all__ = ["Handle", "Ops", "StepHandles"]
