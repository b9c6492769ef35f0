"""vLLM on the CPU, in process, bf16, compiled. program: an interpreter that has it; model: a Hugging Face directory."""

import importlib
import os
from collections.abc import Callable
from itertools import count
from time import perf_counter

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "3",  # GiB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_USE_AOT_COMPILE": "0",  # what it stores does not load again
}


def load(program: str, model: str, threads: int) -> Callable[[list[int], int], tuple[float, float]]:
    for name, value in {**SETTINGS, "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}" if threads > 1 else "0"}.items():
        os.environ.setdefault(name, value)
    vllm = importlib.import_module("vllm")
    llm = vllm.LLM(model=model, dtype="bfloat16", max_model_len=8192, disable_log_stats=True, enable_prefix_caching=True)
    engine, numbers = llm.llm_engine, count()

    def generate(prompt: list[int], num_tokens: int) -> tuple[float, float]:
        settings = vllm.SamplingParams(
            max_tokens=num_tokens, min_tokens=num_tokens, ignore_eos=True, temperature=0.0, detokenize=False
        )
        times: list[float] = []
        start = perf_counter()
        engine.add_request(str(next(numbers)), {"prompt_token_ids": prompt}, settings)
        while engine.has_unfinished_requests():
            for output in engine.step():
                times += [perf_counter() - start] * (len(output.outputs[0].token_ids) - len(times))
        return times[0], (times[-1] - times[0]) / max(1, num_tokens - 1)

    return generate
