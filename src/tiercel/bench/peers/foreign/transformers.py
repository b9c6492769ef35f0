"""Hugging Face transformers, bf16, scaled-dot-product attention. program: an interpreter that has it; model: a directory.

Prompts of one length are one batch; others go one after the other. Nothing is kept from one call to the next.
"""

import importlib
import os
from time import perf_counter


class Peer:
    def __init__(self, program: str, model: str, threads: int) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        self._torch = importlib.import_module("torch")
        self._torch.set_num_threads(threads)
        models = importlib.import_module("transformers").AutoModelForCausalLM
        self._model = models.from_pretrained(model, dtype=self._torch.bfloat16, attn_implementation="sdpa").eval()

    def generate(self, prompts: list[list[int]], num_tokens: int) -> list[tuple[float, float]]:
        start = perf_counter()
        alike = len({len(prompt) for prompt in prompts}) == 1
        batches = [prompts] if alike else [[prompt] for prompt in prompts]
        with self._torch.inference_mode():
            return [times for batch in batches for times in self._batch(batch, num_tokens, start)]

    def _batch(self, prompts: list[list[int]], num_tokens: int, start: float) -> list[tuple[float, float]]:
        ids, cache, first = self._torch.tensor(prompts), None, 0.0
        for _ in range(num_tokens):
            out = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
            first = first or perf_counter() - start
        return [(first, perf_counter() - start)] * len(prompts)
