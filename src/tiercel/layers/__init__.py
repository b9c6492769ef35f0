"""The parts that models are made of. They hold packed weights and call ops; they compute nothing themselves."""

from tiercel.layers.attention import Attention, KVPlace
from tiercel.layers.decoder import DecoderLayer
from tiercel.layers.embedding import Embedding
from tiercel.layers.linear import JoinedLinear, Linear
from tiercel.layers.mlp import MLP
from tiercel.layers.norm import RMSNorm
from tiercel.layers.rotary import Rotary
from tiercel.layers.weights import WeightSource

__all__ = [
    "Attention",
    "DecoderLayer",
    "Embedding",
    "JoinedLinear",
    "KVPlace",
    "Linear",
    "MLP",
    "RMSNorm",
    "Rotary",
    "WeightSource",
]
