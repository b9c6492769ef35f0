"""vLLM on the CPU, in process, bf16, compiled. program: an interpreter that has it; model: a Hugging Face directory."""

import importlib
import os
from itertools import count
from time import perf_counter

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_USE_AOT_COMPILE": "0",  # what it stores does not load again
}


class Peer:
    """kv_gib: memory for keys and values."""

    def __init__(self, program: str, model: str, threads: int, kv_gib: int = 3) -> None:
        processors = f"0-{threads - 1}" if threads > 1 else "0"
        own = {"VLLM_CPU_OMP_THREADS_BIND": processors, "VLLM_CPU_KVCACHE_SPACE": str(kv_gib)}
        for name, value in {**SETTINGS, **own}.items():
            os.environ.setdefault(name, value)
        self._vllm = importlib.import_module("vllm")
        llm = self._vllm.LLM(
            model=model, dtype="bfloat16", max_model_len=8192, disable_log_stats=True, enable_prefix_caching=True
        )
        self._engine, self._numbers = llm.llm_engine, count()

    def generate(self, prompts: list[list[int]], num_tokens: int) -> list[tuple[float, float]]:
        settings = self._vllm.SamplingParams(
            max_tokens=num_tokens, min_tokens=num_tokens, ignore_eos=True, temperature=0.0, detokenize=False
        )
        times: dict[str, tuple[float, float]] = {}
        start = perf_counter()
        for prompt in prompts:
            self._engine.add_request(str(next(self._numbers)), {"prompt_token_ids": prompt}, settings)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                now = perf_counter() - start
                first, _ = times.get(output.request_id, (now, now))
                times[output.request_id] = first, now
        return list(times.values())
