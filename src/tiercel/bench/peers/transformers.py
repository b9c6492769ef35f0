"""Hugging Face transformers, in float32, on the same weight values and threads."""

from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from time import perf_counter

import torch
from transformers import AutoModelForCausalLM

from tiercel.bench.measure import Generation


class TransformersPeer:
    """One model, greedy, one request at a time; the attention implementation is transformers' default."""

    name = "transformers"

    def __init__(self, path: Path, threads: int) -> None:
        """path: a `.gguf` file, whose weights transformers dequantises to float32, or a directory with safetensors."""
        torch.set_num_threads(threads)
        directory, file = (path.parent, path.name) if path.suffix == ".gguf" else (path, None)
        with redirect_stderr(StringIO()):  # it draws progress bars into the one of the benchmark
            self._model = AutoModelForCausalLM.from_pretrained(directory, gguf_file=file, dtype=torch.float32)

    @torch.inference_mode()
    def generate(self, prompt: Sequence[int], num_tokens: int) -> Generation:
        start = perf_counter()
        out = self._model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
        token_ids = [int(out.logits[0, -1].argmax())]
        first = perf_counter()
        while len(token_ids) < num_tokens:
            out = self._model(torch.tensor([token_ids[-1:]]), past_key_values=out.past_key_values, use_cache=True)
            token_ids.append(int(out.logits[0, -1].argmax()))
        return Generation(token_ids, first - start, perf_counter() - first)
