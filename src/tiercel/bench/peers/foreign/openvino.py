"""OpenVINO GenAI, continuous batching, step by step. program: an interpreter that has it; model: a directory that optimum-intel
exported."""

import importlib
from itertools import count
from time import perf_counter
from typing import Any


class Peer:
    """kv_gib: memory for keys and values."""

    def __init__(self, program: str, model: str, threads: int, kv_gib: int = 3) -> None:
        self._numpy, self._openvino = importlib.import_module("numpy"), importlib.import_module("openvino")
        self._genai = importlib.import_module("openvino_genai")
        scheduler = self._genai.SchedulerConfig()
        scheduler.cache_size, scheduler.dynamic_split_fuse, scheduler.enable_prefix_caching = kv_gib, True, True
        settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads}
        self._pipeline = self._genai.ContinuousBatchingPipeline(model, scheduler, "CPU", settings)
        self._numbers = count()

    def generate(self, prompts: list[list[int]], num_tokens: int) -> list[tuple[float, float]]:
        times = [(0.0, 0.0)] * len(prompts)
        start = perf_counter()
        handles = [self._add(prompt, num_tokens) for prompt in prompts]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            now = perf_counter() - start
            for number, handle in enumerate(handles):
                if handle.can_read():
                    handle.read()
                    times[number] = times[number][0] or now, now
        return times

    def _add(self, prompt: list[int], num_tokens: int) -> Any:
        wanted = self._genai.GenerationConfig()
        wanted.max_new_tokens = wanted.min_new_tokens = num_tokens
        wanted.ignore_eos, wanted.do_sample, wanted.apply_chat_template = True, False, False
        ids = self._openvino.Tensor(self._numpy.array([prompt], self._numpy.int64))
        return self._pipeline.add_request(next(self._numbers), ids, wanted)
