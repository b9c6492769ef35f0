"""An engine of a few lines for cases that a real one meets too rarely: slow, endless, broken, dead. Words are its tokens."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from tiercel.engine.messages import EngineStats
from tiercel.engine.outputs import Delta
from tiercel.engine.plan import EnginePlan
from tiercel.types import EngineDead, InvalidInput, Miss, Reuse, SamplingParams

PLAN = EnginePlan(
    backend="fake",
    dtype="float32",
    kv_dtype="float32",
    kv_bytes=1 << 20,
    num_blocks=16,
    max_model_len=1024,
    max_num_seqs=4,
    max_num_batched_tokens=64,
    threads=1,
    prefix_caching=True,
)


class ByteTokenizer:
    vocab_size = 256

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return bytes(token_ids).decode(errors="replace")


@dataclass
class FakeLLM:
    """Sends `word` for every token, one every `step` seconds; deltas nobody has read are joined, as the real engine does.

    fail_after: tokens after which `error` is raised.
    """

    word: str = "ha "
    step: float = 0.0
    fail_after: int | None = None
    error: Exception = field(default_factory=lambda: EngineDead("gone"))
    plan: EnginePlan = PLAN
    model_name: str = "fake"
    alive: bool = True
    tokenizer: ByteTokenizer = field(default_factory=ByteTokenizer)
    generation_defaults: dict[str, float] = field(default_factory=dict)
    miss: Miss = field(default_factory=lambda: Miss(reason="first_seen", position=1))
    running: set[str] = field(default_factory=set)
    aborted: list[str] = field(default_factory=list)
    seen: list[SamplingParams] = field(default_factory=list)
    deltas: dict[str, int] = field(default_factory=dict)  # how many each request's reader has taken

    def encode_chat(self, messages: list[dict], tools: list | None = None) -> list[int]:
        self.messages, self.tools = messages, tools
        return self.tokenizer.encode("".join(m["content"] for m in messages))

    async def generate(
        self, prompt: Sequence[int], params: SamplingParams, *, request_id: str, priority: int = 0, cache_salt: str = ""
    ) -> AsyncGenerator[Delta, None]:
        if len(prompt) >= self.plan.max_model_len:
            raise InvalidInput("prompt", "is too long")
        self.seen.append(params)
        self.running.add(request_id)
        began, sent = time.perf_counter(), 0
        total = params.max_tokens or self.plan.max_model_len
        try:
            while sent < total:
                await asyncio.sleep(self.step)
                ready = min(total, max(sent + 1, int((time.perf_counter() - began) / self.step))) if self.step else sent + 1
                if self.fail_after is not None and ready > self.fail_after:
                    raise self.error
                for index in range(params.n):
                    self.deltas[request_id] = self.deltas.get(request_id, 0) + 1
                    yield Delta(
                        request_id,
                        index,
                        text=self.word * (ready - sent),
                        token_ids=[7] * (ready - sent),
                        finish_reason="length" if ready == total else None,
                        prompt_tokens=len(prompt),
                        cached_tokens=1,
                        reuse=self.reuse(len(prompt)) if sent == 0 else None,
                    )
                sent = ready
        finally:
            self.running.discard(request_id)
            if sent < total:
                self.aborted.append(request_id)

    def reuse(self, num_tokens: int) -> Reuse:
        return Reuse(prompt_tokens=num_tokens, device_tokens=1, stored_tokens=0, miss=self.miss)

    async def stats(self) -> EngineStats:
        if not self.alive:
            raise EngineDead("gone")
        return EngineStats(requests_running=len(self.running), kv_blocks_total=16)
