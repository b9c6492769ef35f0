"""The real SmolLM2 as the default model package carries it, and transformers on the same dequantised weights."""

from functools import cache
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from tiercel import LLM
from tiercel.models import resolve_model

SMOLLM2: Path = resolve_model("smollm2")


@cache
def llm(**settings: str) -> LLM:
    """One engine for all tests that only ask it something; `settings` are those that are not the default."""
    return LLM(str(SMOLLM2), kv_memory="512MiB", **settings)


@cache
def oracle() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(SMOLLM2.parent, gguf_file=SMOLLM2.name, dtype=torch.float32).eval()


@torch.inference_mode()
def oracle_logits(token_ids: list[int]) -> torch.Tensor:
    """[tokens, vocab], each row after the tokens up to its own."""
    return oracle()(torch.tensor([token_ids])).logits[0]
