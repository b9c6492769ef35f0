"""One signature per operation, several back ends."""

from tiercel.ops.base import Forward, Handle, Ops, StepHandles
from tiercel.ops.dequantize import dequantize
from tiercel.ops.recording import Program, Recorder
from tiercel.ops.registry import load_ops, native_reason

__all__ = ["Forward", "Handle", "Ops", "Program", "Recorder", "StepHandles", "dequantize", "load_ops", "native_reason"]
