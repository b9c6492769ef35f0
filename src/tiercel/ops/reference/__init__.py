"""The reference back end, in torch."""

import os

# libgomp reads this once, when torch is loaded. By default a waiting thread spins for milliseconds, so that two programs on the
# same cores slow each other down by much more than half. So short a spin costs one that is alone a few percent.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

from tiercel.ops.reference.backend import ReferenceOps

__all__ = ["ReferenceOps"]
