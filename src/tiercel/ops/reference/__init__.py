"""The reference back end, in torch."""

import os

# libgomp reads this once, when torch is loaded. By default a waiting thread spins for milliseconds: fastest for a program
# alone, slow for several on the same cores. A short spin gives up some of the first for much of the second.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

from tiercel.ops.reference.backend import ReferenceOps

__all__ = ["ReferenceOps"]
