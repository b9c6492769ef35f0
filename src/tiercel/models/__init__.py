"""Models: descriptions of architectures, and everything that is read from a model's files."""

from tiercel.models.build import build_model, load_model
from tiercel.models.chat_template import render_chat
from tiercel.models.checkpoint import Checkpoint, open_checkpoint
from tiercel.models.convert import Conversion, convert_model
from tiercel.models.executor import Executor, ModelExecutor
from tiercel.models.groups import kv_groups
from tiercel.models.prepared import open_prepared
from tiercel.models.registry import Model
from tiercel.models.resolve import resolve_model
from tiercel.models.tokenizer import Tokenizer

__all__ = [
    "Checkpoint",
    "Conversion",
    "Executor",
    "Model",
    "ModelExecutor",
    "Tokenizer",
    "build_model",
    "convert_model",
    "kv_groups",
    "load_model",
    "open_checkpoint",
    "open_prepared",
    "render_chat",
    "resolve_model",
]
