"""The engine in its own process: many requests, early leavers, and deaths on either side."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.real_model import SMOLLM2
from tiercel import AsyncLLM, EngineConfig, EngineDead, InvalidInput, ModelError, SamplingParams

CONFIG = EngineConfig(model=str(SMOLLM2), kv_memory="256MiB", max_model_len=1024)
SHORT = SamplingParams(temperature=0.0, max_tokens=6)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] == "Z"


async def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.02)


async def text_of(llm, prompt, params=SHORT, **options):
    return "".join([delta.text async for delta in llm.generate(prompt, params, **options)])


async def idle(llm):
    while True:
        stats = await llm.stats()
        if stats.requests_running == stats.requests_waiting == 0:
            return stats
        await asyncio.sleep(0.02)


def test_one_engine_process_from_start_to_kill():
    async def scenario():
        llm = await AsyncLLM.start(CONFIG)
        pid = llm._process._process.pid
        prompts = [f"Number {i} is" for i in range(8)]
        alone = [await text_of(llm, prompt) for prompt in prompts]
        together = await asyncio.gather(*(text_of(llm, prompt) for prompt in prompts))
        assert list(together) == alone

        long = SamplingParams(temperature=0.0, max_tokens=900, ignore_eos=True)
        leaver = llm.generate("Once upon a time", long)
        await anext(leaver)
        await leaver.aclose()
        task = asyncio.create_task(text_of(llm, "Once more", long))
        await asyncio.sleep(0.3)
        task.cancel()
        stats = await asyncio.wait_for(idle(llm), 30)
        assert stats.kv_blocks_used == 0

        slow = llm.generate("A slow reader", SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True))
        first = await anext(slow)
        await asyncio.wait_for(idle(llm), 60)
        rest = [delta async for delta in slow]
        assert len(rest) == 1, "deltas nobody read are joined"
        assert len(first.token_ids) + len(rest[0].token_ids) == 20

        with pytest.raises(InvalidInput, match="max_model_len"):
            await text_of(llm, [1] * 2000)
        blocker = llm.generate("x", long, request_id="same")
        await anext(blocker)
        with pytest.raises(InvalidInput, match="running already"):
            await text_of(llm, "x", request_id="same")

        waiting = asyncio.create_task(text_of(llm, "The engine will die", long))
        await asyncio.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineDead):
            await asyncio.wait_for(waiting, 10)
        with pytest.raises(EngineDead):
            async for _ in blocker:
                pass
        assert not llm.alive
        with pytest.raises(EngineDead):
            await text_of(llm, "too late")
        with pytest.raises(EngineDead):
            await llm.stats()
        await llm.shutdown()

    asyncio.run(scenario())


def test_shutdown_ends_the_process():
    async def scenario():
        async with await AsyncLLM.start(CONFIG) as llm:
            pid = llm._process._process.pid
            folder = llm._process._folder
            assert await text_of(llm, "Hello") != ""
        assert gone(pid)
        assert not folder.exists()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"max_model_len": 10**6}, InvalidInput, "max_model_len"),
        ({"model": "/nowhere/to/be/found.gguf"}, ModelError, "/nowhere/to/be/found.gguf"),
    ],
)
def test_what_the_engine_process_refuses_arrives_here(settings, error, words):
    async def scenario():
        with pytest.raises(error, match=words):
            await AsyncLLM.start(CONFIG.model_copy(update=settings))

    asyncio.run(scenario())


def test_the_engine_process_does_not_outlive_its_parent():
    program = (
        "import asyncio\n"
        "from tiercel import AsyncLLM, EngineConfig\n"
        "async def main():\n"
        f"    llm = await AsyncLLM.start(EngineConfig(model={str(SMOLLM2)!r}, kv_memory='64MiB', max_model_len=512))\n"
        "    print(llm._process._process.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    asyncio.run(until(lambda: gone(pid)))
