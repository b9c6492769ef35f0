"""What a restart costs: a prompt whose prefix another process computed and stored, and the least that this could take."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from tiercel.bench.measure import Say, Summary, fixed_length
from tiercel.bench.page_cache import drop, read_raw, resident_share
from tiercel.bench.prefix import PrefixLoad
from tiercel.bench.report import Row
from tiercel.bench.workload import Workload
from tiercel.config import EngineConfig, resolve_disk
from tiercel.engine import AsyncLLM
from tiercel.types import BLOCK_TOKENS, InvalidInput, Reuse, TiercelError

ALLOWANCE = 0.1  # seconds that a restart may take beside the raw read and the request in memory


class Scenario(NamedTuple):
    """How a new process meets the stored prefix.

    cold: the page cache holds none of it; warmed_up: the process has answered a short prompt before.
    """

    name: str
    cold: bool
    warmed_up: bool


SCENARIOS = (
    Scenario("page cache warm", cold=False, warmed_up=True),
    Scenario("page cache cold", cold=True, warmed_up=True),
    Scenario("page cache warm, the first request of its process", cold=False, warmed_up=False),
)


@dataclass(frozen=True)
class Restart:
    """One new process. Seconds: from its start until it was ready, of the raw read, and to the first token twice.

    resident: share of the stored bytes that were in the page cache when the request was submitted.
    """

    pid: int
    ready: float
    raw_read: float
    from_disk: float
    in_memory: float
    resident: float

    @property
    def bound(self) -> float:
        return self.raw_read + self.in_memory + ALLOWANCE


@dataclass(frozen=True)
class RestartRun:
    """A prefix that one process (`pid`) computed in `computed` seconds, and the new processes that found it, by scenario."""

    pid: int
    computed: float
    stored_bytes: int
    restarts: tuple[Restart, ...]
    plan: str


def measure_restart(config: EngineConfig, load: PrefixLoad, runs: int, workload: Workload, say: Say) -> list[RestartRun]:
    """Several runs of fresh prompts. config: names a folder for the store, which nobody else uses meanwhile.

    Raises InvalidInput for a prefix that is not whole blocks, TiercelError where a process did not find it on disk.
    """
    if load.prefix_tokens % BLOCK_TOKENS:
        raise InvalidInput("prefix_tokens", f"must be a multiple of {BLOCK_TOKENS} here: only whole blocks are stored")
    experiment = _Experiment(config, load, workload, say)

    async def measure() -> list[RestartRun]:
        return [await experiment.run(f"run {run + 1} of {runs}") for run in range(runs)]

    return asyncio.run(measure())


def restart_tables(load: PrefixLoad, runs: Sequence[RestartRun]) -> dict[str, list[Row]]:
    """A table for each scenario, and one of what lies around them."""
    tables = {scenario.name: _rows([run.restarts[index] for run in runs]) for index, scenario in enumerate(SCENARIOS)}
    restarts = [restart for run in runs for restart in run.restarts]
    warm, cold = ([run.restarts[index].resident for run in runs] for index in (0, 1))
    around: dict[str, Summary | int] = {
        "prefix tokens, all of them from disk": load.prefix_tokens,
        "stored bytes": runs[0].stored_bytes,
        "in the page cache when warm, %": Summary.of(warm).scaled(100),
        "in the page cache when cold, %": Summary.of(cold).scaled(100),
        "start of a process until it is ready, s": Summary.of([restart.ready for restart in restarts]),
        "prefix computed by the process before, s": Summary.of([run.computed for run in runs]),
    }
    return {**tables, "around it": [{"what": name, "value": value} for name, value in around.items()]}


def process_ids(runs: Sequence[RestartRun]) -> str:
    """Who computed each run's prefix, and who found it."""
    return "; ".join(f"{run.pid} -> {', '.join(str(restart.pid) for restart in run.restarts)}" for run in runs)


def _rows(restarts: Sequence[Restart]) -> list[Row]:
    from_disk = Summary.of([restart.from_disk for restart in restarts])
    bound = Summary.of([restart.bound for restart in restarts])
    return [
        {"what": "raw read of the stored bytes", "seconds": Summary.of([r.raw_read for r in restarts]), "of the bound": None},
        {"what": "TTFT, prefix in memory", "seconds": Summary.of([r.in_memory for r in restarts]), "of the bound": None},
        {"what": f"bound: both and {ALLOWANCE} s", "seconds": bound, "of the bound": None},
        {"what": "TTFT, prefix on disk", "seconds": from_disk, "of the bound": from_disk.over(bound)},
    ]


@dataclass(frozen=True)
class _Experiment:
    """What all runs share."""

    config: EngineConfig
    load: PrefixLoad
    workload: Workload
    say: Say

    async def run(self, label: str) -> RestartRun:
        prefix = self.workload.prompt(self.load.prefix_tokens)
        before = self._stored_files()
        self.say(f"{label}: computing {len(prefix):,} tokens in one process")
        async with await AsyncLLM.start(self.config) as llm:
            computed, _ = await _first_token(llm, prefix)
            pid, plan = llm.pid, str(llm.plan)
        files = sorted(self._stored_files() - before)
        if not files:
            raise TiercelError("the process that computed the prefix stored nothing of it; the settings kv_disk_* tell what is")
        restarts = []
        for scenario in SCENARIOS:
            self.say(f"{label}: asking a new process, {scenario.name}")
            restarts.append(await self._restart(scenario, prefix, files))
        return RestartRun(pid, computed, sum(file.stat().st_size for file in files), tuple(restarts), plan)

    async def _restart(self, scenario: Scenario, prefix: list[int], files: Sequence[Path]) -> Restart:
        start = perf_counter()
        async with await AsyncLLM.start(self.config) as llm:
            ready = perf_counter() - start
            if scenario.warmed_up:
                await _first_token(llm, self.workload.prompt(self.load.new_tokens))
            raw_read = _read(files, cold=scenario.cold)
            resident = resident_share(files)
            from_disk, reuse = await _first_token(llm, self.workload.prompt(sum(self.load), prefix))
            self._check("disk", reuse.stored_tokens, reuse)
            in_memory, reuse = await _first_token(llm, self.workload.prompt(sum(self.load), prefix))
            self._check("memory", reuse.device_tokens, reuse)
            return Restart(llm.pid, ready, raw_read, from_disk, in_memory, resident)

    def _check(self, place: str, num_tokens: int, reuse: Reuse) -> None:
        """Raises TiercelError unless the whole prefix was found in its place."""
        wanted = self.load.prefix_tokens
        if num_tokens != wanted:
            reason = reuse.miss.detail or reuse.miss.reason
            raise TiercelError(f"of a prefix of {wanted:,} tokens, {num_tokens:,} came from {place}: {reason}")

    def _stored_files(self) -> set[Path]:
        plan = resolve_disk(self.config)
        assert plan is not None, "the store has a folder"
        return set(plan.path.rglob("*.kv"))


def _read(files: Sequence[Path], *, cold: bool) -> float:
    """Seconds of a raw read. The page cache is as warm or cold afterwards as it was before."""
    if not cold:
        read_raw(files)
        return read_raw(files)
    drop(files)
    seconds = read_raw(files)
    drop(files)
    return seconds


async def _first_token(llm: AsyncLLM, prompt: Sequence[int]) -> tuple[float, Reuse]:
    """Seconds from submission to the first token, and what was reused."""
    start = perf_counter()
    deltas = [(perf_counter() - start, delta.reuse) async for delta in llm.generate(prompt, fixed_length(1))]
    seconds, reuse = deltas[0]
    assert reuse is not None, "the first delta tells what was reused"
    return seconds, reuse
