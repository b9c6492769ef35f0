"""Sampling."""

import numpy as np
import numpy.typing as npt

from tiercel.ops.cpu.library import Pool
from tiercel.ops.sampling import sample as _sample
from tiercel.types import SamplingBatch, StepOutput


def sample(pool: Pool, logits: npt.NDArray[np.float32], sampling: SamplingBatch) -> StepOutput:
    return _sample(logits, sampling)
