"""Plain data that every part may use. Imports nothing of ours."""

from tiercel.types.errors import CheckpointError, EngineDead, InvalidInput, ModelError, TiercelError
from tiercel.types.identity import FORMAT_VERSION, BlockHash, BlockKey, Namespace
from tiercel.types.layout import BLOCK_TOKENS, KVFormat, KVGroup, KVLayout, Segment
from tiercel.types.model import KVGroupSpec, ModelConfig, RopeConfig
from tiercel.types.reuse import Miss, MissReason, Reuse
from tiercel.types.sampling import SamplingParams
from tiercel.types.step import AttentionBatch, SamplingBatch, StepInput, StepOutput
from tiercel.types.structured import StructuredOutput
from tiercel.types.weight import FORMATS, Weight, WeightFormat

__all__ = [
    "AttentionBatch",
    "BLOCK_TOKENS",
    "BlockHash",
    "BlockKey",
    "CheckpointError",
    "EngineDead",
    "FORMATS",
    "FORMAT_VERSION",
    "InvalidInput",
    "KVFormat",
    "KVGroup",
    "KVGroupSpec",
    "KVLayout",
    "Miss",
    "MissReason",
    "ModelConfig",
    "ModelError",
    "Namespace",
    "Reuse",
    "RopeConfig",
    "SamplingBatch",
    "SamplingParams",
    "Segment",
    "StepInput",
    "StepOutput",
    "StructuredOutput",
    "TiercelError",
    "Weight",
    "WeightFormat",
]
