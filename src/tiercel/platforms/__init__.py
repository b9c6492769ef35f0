"""The machine as this process may use it: cores, memory, instruction sets, under affinity and control groups."""

from tiercel.platforms.detect import Platform, detect

__all__ = ["Platform", "detect"]
