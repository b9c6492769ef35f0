"""What writing to a store costs while tokens are generated: processor time, the length of a step, and who waits for whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from tiercel.bench.measure import Say, Summary, fixed_length
from tiercel.bench.report import Row
from tiercel.bench.trace import Trace, traced
from tiercel.bench.workload import Workload
from tiercel.config import EngineConfig
from tiercel.engine import LLM, EngineCore
from tiercel.engine.messages import Submit
from tiercel.types import BLOCK_TOKENS, InvalidInput, TiercelError

MILLI = 1e3
SECOND_TOUCH = 2


@dataclass(frozen=True)
class DecodeLoad:
    """A prompt that was computed before, and the tokens that are generated while its blocks are written."""

    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Step:
    """One decoding step, from `start` to `end`. Seconds: the engine thread's in movement, the writer thread's on a processor.

    writing: whether blocks were still to be written when it ended.
    """

    start: float
    end: float
    movement: float
    writer: float
    writing: bool

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class DecodeRun:
    """Steps with and without a store. blocks_written, trace: of the steps with it."""

    with_store: list[Step]
    without_store: list[Step]
    blocks_written: int
    trace: Trace
    plan: str

    @property
    def while_writing(self) -> list[Step]:
        return [step for step in self.with_store if step.writing]


def measure_write_behind(config: EngineConfig, load: DecodeLoad, runs: int, workload: Workload, say: Say) -> list[DecodeRun]:
    """Several runs of fresh prompts, each decoded by two engines in turns, of which one has a store.

    A prompt is computed by a first request. Blocks are written at their second touch: when a second request finds the prompt in
    memory and goes on decoding. config: names a folder for the store. Raises TiercelError if nothing was written meanwhile.
    """
    if load.prompt_tokens % BLOCK_TOKENS:
        raise InvalidInput("prompt_tokens", f"must be a multiple of {BLOCK_TOKENS} here: only whole blocks are written")
    say("loading the model twice")
    with (
        LLM(config=config.model_copy(update={"kv_disk_touches": SECOND_TOUCH})) as llm,
        LLM(config=config.model_copy(update={"kv_disk": "off"})) as other,
    ):
        writing, plain = llm.core, other.core
        for core in (writing, plain):
            _generate(core, workload.prompt(BLOCK_TOKENS), 2)
        measured = []
        for run in range(runs):
            prompt = workload.prompt(load.prompt_tokens)
            again = workload.prompt(load.prompt_tokens + 1, prompt)
            say(f"run {run + 1} of {runs}: computing {load.prompt_tokens:,} tokens twice")
            for core in (writing, plain):
                _generate(core, prompt, 1)
            say(f"run {run + 1} of {runs}: {load.output_tokens} tokens without a store")
            without_store = _generate(plain, again, load.output_tokens)
            say(f"run {run + 1} of {runs}: {load.output_tokens} tokens with a store")
            with_store, written, trace = _generate_traced(writing, again, load.output_tokens)
            measured.append(DecodeRun(with_store, without_store, written, trace, str(llm.plan)))
            _finish_writing(writing)
    return measured


def write_behind_rows(runs: Sequence[DecodeRun]) -> list[Row]:
    """Times of the steps during which blocks were being written, and what was spent on writing them."""
    writing = [run.while_writing for run in runs]
    lengths = Summary.of([median(step.seconds for step in steps) for steps in writing]).scaled(MILLI)
    plain = Summary.of([median(step.seconds for step in run.without_store) for run in runs]).scaled(MILLI)
    mover = Summary.of([_mean([step.writer for step in steps]) for steps in writing]).scaled(MILLI)
    engine = Summary.of([_mean([step.movement for step in steps]) for steps in writing]).scaled(MILLI)
    share = Summary.of([sum(s.writer + s.movement for s in steps) / sum(s.seconds for s in steps) for steps in writing])
    figures: dict[str, Summary] = {
        "decoding step without a store, ms": plain,
        "decoding step while blocks are written, ms": lengths,
        "while written / without": lengths.over(plain),
        "writer thread, processor time per step, ms": mover,
        "engine thread, movement per step, ms": engine,
        "both, % of a step": share.scaled(100),
        "longest movement in a step, ms": Summary.of([max(s.movement for s in steps) for steps in writing]).scaled(MILLI),
        "steps while blocks are written": Summary.of([len(steps) for steps in writing]),
        "blocks written meanwhile": Summary.of([run.blocks_written for run in runs]),
        "calls to the store on the engine's thread": Summary.of([len(run.trace.on_this_thread("store")) for run in runs]),
    }
    return [{"what": name, "value": value} for name, value in figures.items()]


def _generate_traced(core: EngineCore, prompt: list[int], num_tokens: int) -> tuple[list[Step], int, Trace]:
    """As `_generate`; also how many blocks were written meanwhile, and what happened when on which thread."""
    with traced(core) as trace:
        before = core.manager.tier_counts()
        steps = _generate(core, prompt, num_tokens)
        after = core.manager.tier_counts()
    if not any(step.writing for step in steps):
        raise TiercelError("no block was written while tokens were generated: choose a longer prompt")
    for step in steps:
        trace.add("engine", "step", step.start, step.end)
    return steps, int(after["blocks_written"] - before.get("blocks_written", 0)), trace


def _generate(core: EngineCore, prompt: list[int], num_tokens: int) -> list[Step]:
    """Runs one request to its end."""
    core.submit(Submit(request_id="decode", prompt_token_ids=prompt, params=fixed_length(num_tokens)))
    steps = []
    while core.has_work:
        writer, movement, start = _writer_seconds(core), core.timings["movement"], perf_counter()
        core.step()
        end = perf_counter()
        writing = core.manager.tier_counts().get("blocks_waiting", 0) > 0
        steps.append(Step(start, end, core.timings["movement"] - movement, _writer_seconds(core) - writer, writing))
    return steps


def _writer_seconds(core: EngineCore) -> float:
    return core.manager.tier_counts().get("write_cpu_seconds", 0.0)


def _finish_writing(core: EngineCore) -> None:
    """Lets the writer do the rest, which it does without pauses now, so that it does not disturb what is measured next."""
    while core.manager.tier_counts()["blocks_waiting"]:
        core.step()
        core.manager.wait(0.01)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
