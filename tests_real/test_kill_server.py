"""A real server with the real model, killed at random points while it answers; the next one goes on with what is on disk."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx
import pytest

from tests.server.process import ServerProcess, running_server
from tests.server.test_generation import eventually
from tests.server.test_serve import process_exists
from tiercel import LLM, SamplingParams
from tiercel.kv.catalog import read_headers
from tiercel.kv.objects import ObjectHeader
from tiercel.stores import FileStore
from tiercel.types import BLOCK_TOKENS

FOLDERS, POINTS_IN_A_FOLDER = 4, 5
CAPACITY = "64MiB"  # about two thirds of what the prompts fill, so that there is something to remove
NUM_TOKENS = 12
BUSY_SECONDS = 4.0  # the points lie within this time
ESSAY = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()


@dataclass(frozen=True)
class Asked:
    """A prompt and what must be answered."""

    token_ids: list[int]
    text: str


@pytest.fixture(scope="module")
def requests() -> list[Asked]:
    """Prompts that share long beginnings, answered by an engine that keeps nothing on disk and reuses nothing."""
    stems = [ESSAY[start : start + 1500] for start in (0, 4000, 8000)]
    questions = ["In short, the text says that", "What it leaves out is", "A reader of this would ask"]
    llm = LLM("smollm2", kv_disk="off", prefix_caching=False, max_model_len=1024, kv_memory="256MiB")
    prompts = [llm.tokenizer.encode(f"{stem} {question}") for stem in stems for question in questions]
    params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    texts = [output.samples[0].text for output in llm.generate(prompts, params)]
    return [Asked(token_ids, text) for token_ids, text in zip(prompts, texts, strict=True)]


def body(asked: Asked) -> dict:
    return {
        "prompt": asked.token_ids,
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "cache_report": True,
    }


def ask(server: ServerProcess, asked: Asked) -> int:
    """Checks the answer. Returns how many tokens of the prompt came from disk."""
    answer = httpx.post(f"{server.url}/v1/completions", json=body(asked), timeout=120).json()
    assert answer["choices"][0]["text"] == asked.text
    (cache,) = answer["tiercel"]["cache"]
    return cache["stored_tokens"]


def stream(url: str, asked: Asked) -> None:
    """Reads an answer until it ends or the server does. What came of it must be right."""
    text = ""
    try:
        with httpx.stream("POST", f"{url}/v1/completions", json=body(asked) | {"stream": True}, timeout=120) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line.removeprefix("data: "))
                    text += "".join(choice["text"] for choice in chunk.get("choices", []))
    except httpx.TransportError:
        pass  # killed
    assert asked.text.startswith(text)


def kill_while_it_answers(server: ServerProcess, requests: list[Asked], random: Random) -> None:
    """Kills the server, or the process that computes and then the server; neither outlives the other."""
    url, engine = server.url, server.engine_pid
    first = engine if random.random() < 0.5 else server.popen.pid
    with ThreadPoolExecutor() as pool:
        streams = [pool.submit(stream, url, asked) for asked in random.sample(requests, 4)]
        time.sleep(random.uniform(0, BUSY_SECONDS))
        os.kill(first, signal.SIGKILL)
        server.popen.kill()
        for each in streams:
            each.result()
    assert server.popen.wait(30) == -signal.SIGKILL
    assert eventually(lambda: not process_exists(engine)), "the process that computes outlives its server"


def stored_blocks(folder: Path, token_ids: list[int]) -> int:
    """How many blocks at the start of a prompt lie on disk, whole."""
    headers = [header for _, header in read_headers(FileStore(folder, capacity=2**40, free_floor=0))]
    assert all(isinstance(header, ObjectHeader) for header in headers), headers
    known = {(header.first_position, *header.token_ids): header for header in headers}
    last = None
    for number in range((len(token_ids) - 1) // BLOCK_TOKENS):
        start = number * BLOCK_TOKENS
        header = known.get((start, *token_ids[start : start + BLOCK_TOKENS]))
        if header is None or (last is not None and header.parent != last.block_hash):
            return number
        last = header
    return (len(token_ids) - 1) // BLOCK_TOKENS


@pytest.mark.parametrize("number", range(FOLDERS))
def test_what_a_killed_server_leaves_behind_is_used_and_right(requests, number, tmp_path):
    random = Random(number)
    folder = tmp_path / "kv"
    options = ("--max-model-len", "1024", "--kv-memory", "256MiB", "--kv-disk", f"{folder}:{CAPACITY}")
    loaded = []
    for _ in range(POINTS_IN_A_FOLDER + 1):
        with running_server(*options) as server:
            first, *others = random.sample(requests, 3)
            expected = stored_blocks(folder, first.token_ids) * BLOCK_TOKENS if server.url else 0
            assert ask(server, first) == expected, "all that was written is found again"
            loaded.append(expected)
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda asked, server=server: ask(server, asked), others))
            if len(loaded) <= POINTS_IN_A_FOLDER:
                kill_while_it_answers(server, requests, random)
            else:
                assert server.terminate() == 0
            assert not [line for line in server.log if line.get("level") in ("error", "critical")]
    assert loaded[0] == 0
    assert sum(loaded) > 0
