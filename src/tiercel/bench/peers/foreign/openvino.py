"""OpenVINO GenAI, continuous batching, step by step. program: an interpreter that has it; model: a directory that optimum-intel
exported."""

import importlib
from collections.abc import Callable
from itertools import count
from time import perf_counter

KV_GIB = 3


def load(program: str, model: str, threads: int) -> Callable[[list[int], int], tuple[float, float]]:
    numpy, openvino = importlib.import_module("numpy"), importlib.import_module("openvino")
    genai = importlib.import_module("openvino_genai")
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size, scheduler.dynamic_split_fuse, scheduler.enable_prefix_caching = KV_GIB, True, True
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads}
    pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", settings)
    numbers = count()

    def generate(prompt: list[int], num_tokens: int) -> tuple[float, float]:
        wanted = genai.GenerationConfig()
        wanted.max_new_tokens = wanted.min_new_tokens = num_tokens
        wanted.ignore_eos, wanted.do_sample, wanted.apply_chat_template = True, False, False
        times: list[float] = []
        start = perf_counter()
        handle = pipeline.add_request(next(numbers), openvino.Tensor(numpy.array([prompt], numpy.int64)), wanted)
        while pipeline.has_non_finished_requests():
            pipeline.step()
            now = perf_counter() - start
            while handle.can_read():
                times += [now] * sum(len(output.generated_ids) for output in handle.read().values())
        return times[0], (times[-1] - times[0]) / max(1, num_tokens - 1)

    return generate
