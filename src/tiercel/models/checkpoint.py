"""A model on disk, whatever its file format."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tiercel.models.tokenizer import Tokenizer
from tiercel.types import ModelConfig, Weight


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What `open_checkpoint` finds: settings, memory-mapped weights under their Hugging Face names, tokenizer, chat template.

    fingerprint: hex BLAKE3 over names, formats, shapes and bytes of all weights.
    generation_defaults: sampling settings the model's author recommends (`generation_config.json`), possibly empty.
    """

    path: Path
    name: str
    config: ModelConfig
    weights: Mapping[str, Weight]
    tokenizer: Tokenizer
    chat_template: str | None
    fingerprint: str
    generation_defaults: Mapping[str, float] = field(default_factory=dict)
