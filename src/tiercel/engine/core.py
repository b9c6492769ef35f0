"""The engine: requests in, tokens out, one step at a time. Knows token ids only, no text."""

import secrets
from collections import defaultdict
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from tiercel.engine.messages import Abort, EngineStats, SampleUpdate, Submit, TokenLogprobs
from tiercel.engine.request import Request, make_samples
from tiercel.engine.runner import ModelRunner
from tiercel.engine.scheduler import Scheduler, SchedulerOutput
from tiercel.kv import KVCacheManager
from tiercel.types import BLOCK_TOKENS, StepOutput

FLUSH_SECONDS = 30.0
_NOTHING_TO_DO_SECONDS = 0.005  # all requests wait for a store; whoever drives the engine has messages to read, too

if TYPE_CHECKING:
    from tiercel.engine.structured import GrammarCompiler


class EngineCore:
    """Owns scheduler, runner and cache. Driven by `submit`, `abort` and `step`; lives inline or in a process of its own."""

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        manager: KVCacheManager,
        *,
        max_model_len: int,
        eos_token_ids: tuple[int, ...],
        grammars: Callable[[], "GrammarCompiler"],
    ) -> None:
        self.runner = runner
        self.scheduler = scheduler
        self.manager = manager
        self.timings: defaultdict[str, float] = defaultdict(float)  # seconds by phase of a step
        self._max_model_len = max_model_len
        self._eos_token_ids = eos_token_ids
        self._grammars = grammars
        self._samples: dict[str, dict[int, Request]] = {}  # unfinished samples by request id and index
        self._counters: defaultdict[str, int] = defaultdict(int)
        self._arrivals = 0

    @property
    def has_work(self) -> bool:
        return bool(self._samples)

    def submit(self, message: Submit) -> None:
        """Takes in a request. It was checked by whoever made the message."""
        seed = message.params.seed
        first = make_samples(
            message,
            seed=secrets.randbits(64) if seed is None else seed % 2**64,
            arrival=self._arrivals,
            chain=self.manager.new_chain(message.cache_salt),
            eos_token_ids=self._eos_token_ids,
        )
        self._arrivals += 1
        samples = [first, *first.siblings]
        if message.params.structured is not None:
            for sample in samples:
                sample.matcher = self._grammars().compile(message.params.structured)
        self._samples[message.request_id] = {sample.index: sample for sample in samples}
        self._counters["prompt_tokens"] += first.num_prompt_tokens
        self.manager.poll()  # it may be long since the last step
        self.manager.set_busy(True)
        self.scheduler.add(first)

    def abort(self, message: Abort) -> None:
        """Stops a request, or one sample of it that has begun, before the next step."""
        for sample in list(self._samples.get(message.request_id, {}).values()):
            if message.index is None or (message.index == sample.index and not sample.siblings):
                self._finish(sample)

    def step(self) -> list[SampleUpdate]:
        """Schedule, run, take in. Returns the new tokens; empty when there is nothing to do."""
        with self._timed("movement"):
            self.manager.poll()
        with self._timed("schedule"):
            scheduled = self.scheduler.schedule()
        if not scheduled.num_tokens:
            if self.has_work:
                self.manager.wait(_NOTHING_TO_DO_SECONDS)
            return []
        with self._timed("prepare"):
            step, samples = self.runner.prepare(scheduled)
        start = perf_counter()
        with self._timed("execute"):
            output = self.runner.execute(step)
        if len(step.token_ids) >= BLOCK_TOKENS:  # enough rows to tell what computing a prompt costs
            self.manager.computed(len(step.token_ids), perf_counter() - start)
        with self._timed("update"):
            self._count_step(scheduled)
            return self._take_output(samples, output)

    def flush(self) -> bool:
        """Waits until everything that is to be written to the tier below is written. False where the tier fails at it."""
        while True:
            self.manager.poll()
            counts = self.manager.tier_counts()
            if counts.get("write_breaker_open"):
                return False
            if not counts.get("blocks_waiting"):
                return True
            self.manager.wait(_NOTHING_TO_DO_SECONDS)

    def close(self) -> None:
        """Writes what is still to be written to the tier below, within limits. The engine must not be used any more."""
        self.manager.close(FLUSH_SECONDS)

    def forget(self) -> None:
        """Drops what the device has cached; running requests go on."""
        self.manager.forget()

    def stats(self) -> EngineStats:
        pools = self.manager.pools
        return EngineStats(
            requests_running=len(self.scheduler.running),
            requests_waiting=len(self.scheduler.waiting),
            requests_loading=len(self.scheduler.loading),
            kv_blocks_total=sum(pool.num_blocks for pool in pools),
            kv_blocks_used=sum(pool.num_held for pool in pools),
            kv_blocks_cached=sum(pool.num_cached for pool in pools),
            prefix_query_tokens=self.scheduler.num_query_tokens,
            prefix_hit_tokens=self.scheduler.num_hit_tokens,
            prefix_stored_tokens=self.scheduler.num_stored_tokens,
            preemptions=self.scheduler.num_preemptions,
            evictions=sum(pool.num_evictions for pool in pools),
            phase_seconds=dict(self.timings),
            tier=self.manager.tier_counts(),
            **self._counters,
        )

    def check_integrity(self) -> None:
        """Raises AssertionError unless scheduler, cache and requests agree."""
        self.manager.check_integrity()
        self.scheduler.check_integrity()

    # -- parts ----------------------------------------------------------------------------------------------------------------

    def _count_step(self, scheduled: SchedulerOutput) -> None:
        """The step's tokens are computed: their full blocks can be found from now on."""
        for request, num_tokens in scheduled.num_tokens.items():
            request.num_computed_tokens += num_tokens
            self.manager.seal(request.key, request.token_ids, request.num_computed_tokens)
        self._counters["steps"] += 1

    def _take_output(self, samples: list[Request], output: StepOutput) -> list[SampleUpdate]:
        for request in samples:
            if request.siblings:
                self._start_siblings(request)
        token_ids = output.token_ids.tolist()
        self._counters["generation_tokens"] += len(token_ids)
        return [self._take_token(r, token_ids[i], _logprobs(r, output, i)) for i, r in enumerate(samples)]

    def _start_siblings(self, request: Request) -> None:
        """The prompt is computed: the other samples go on from the same blocks."""
        for sibling in request.siblings:
            self.manager.fork(request.key, sibling.key)
            sibling.num_computed_tokens = request.num_computed_tokens
            sibling.reuse = request.reuse
            self.scheduler.add_running(sibling)
        request.siblings = []

    def _take_token(self, request: Request, token_id: int, logprobs: TokenLogprobs | None) -> SampleUpdate:
        request.token_ids.append(token_id)
        if request.matcher is not None:
            request.matcher.advance(token_id)
        stopped = token_id in request.stop_token_ids
        reason = "stop" if stopped else "length" if self._is_full(request) else None
        if reason is not None:
            self._finish(request)
        return SampleUpdate(
            request_id=request.request_id,
            index=request.index,
            token_ids=[] if stopped else [token_id],
            logprobs=None if logprobs is None else [] if stopped else [logprobs],
            finish_reason=reason,
            stop_token=token_id if token_id in request.params.stop_token_ids else None,
            cached_tokens=request.cached_tokens,
            reuse=request.reuse if request.num_output_tokens == 1 else None,
        )

    def _is_full(self, request: Request) -> bool:
        limit = request.params.max_tokens
        return request.num_tokens >= self._max_model_len or (limit is not None and request.num_output_tokens >= limit)

    def _finish(self, request: Request) -> None:
        self.scheduler.remove(request)
        samples = self._samples[request.request_id]
        del samples[request.index]
        if not samples:
            del self._samples[request.request_id]
            self.manager.set_busy(self.has_work)

    def _timed(self, phase: str) -> "_Timed":
        return _Timed(self.timings, phase)


class _Timed:
    """Adds the time of a `with` block to a phase. A plain class, since every step enters five of them."""

    __slots__ = ("_phase", "_start", "_timings")

    def __init__(self, timings: dict[str, float], phase: str) -> None:
        self._timings = timings
        self._phase = phase

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *_: object) -> None:
        self._timings[self._phase] += perf_counter() - self._start


def _logprobs(request: Request, output: StepOutput, index: int) -> TokenLogprobs | None:
    wanted = request.params.logprobs
    if wanted is None:
        return None
    return TokenLogprobs(
        float(output.logprobs[index]), output.top_ids[index, :wanted].tolist(), output.top_logprobs[index, :wanted].tolist()
    )
