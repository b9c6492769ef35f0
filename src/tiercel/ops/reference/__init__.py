"""The reference back end, in torch."""

import os

# libgomp reads this once, when torch is loaded. Its default lets a waiting thread spin for milliseconds: beside any other busy
# process on the same cores a decode step then takes ten times as long as with a short spin and a sleep.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from tiercel.ops.reference.backend import ReferenceOps

__all__ = ["ReferenceOps"]
