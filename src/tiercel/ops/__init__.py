"""One signature per operation, several back ends."""

from tiercel.ops.base import Handle, Ops, StepHandles
from tiercel.ops.dequantize import dequantize
from tiercel.ops.recording import Program, Recorder
from tiercel.ops.registry import load_ops

__all__ = ["Handle", "Ops", "Program", "Recorder", "StepHandles", "dequantize", "load_ops"]
