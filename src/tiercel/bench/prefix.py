"""What reuse of a prefix saves: a long prompt cold, the same prefix warm, and the least that the warm one could take."""

from time import perf_counter
from typing import NamedTuple

from tiercel.bench.measure import Say, Subject, Summary, TiercelSubject, fixed_length
from tiercel.bench.report import Row
from tiercel.bench.workload import Workload
from tiercel.engine import LLM
from tiercel.engine.messages import Abort, Submit

FLOOR_ID = "floor"


class PrefixLoad(NamedTuple):
    """A prompt of so many tokens that were computed before, and so many new ones."""

    prefix_tokens: int
    new_tokens: int


class PrefixTimes(NamedTuple):
    """Seconds to first token, run by run. chunk: the warm prompt's new tokens, without scheduler, look-up or text."""

    cold: Summary
    warm: Summary
    chunk: Summary
    peer: Summary | None


def measure_prefix(llm: LLM, peer: Subject | None, load: PrefixLoad, runs: int, workload: Workload, say: Say) -> PrefixTimes:
    """Each run: a fresh prompt cold, its prefix warm with new tokens, their chunk alone, the cold prompt by the peer."""
    subject = TiercelSubject(llm)
    length = sum(load)
    say("warming up")
    for each in (subject, peer):
        if each is not None:
            each.generate(workload.prompt(load.new_tokens), 1)
    cold, warm, chunk, other = [], [], [], []
    for run in range(runs):
        prefix = workload.prompt(load.prefix_tokens)
        prompt = workload.prompt(length, prefix)
        say(f"run {run + 1} of {runs}: {length:,} tokens cold")
        cold.append(subject.generate(prompt, 1).first)
        say(f"run {run + 1} of {runs}: {load.prefix_tokens:,} tokens warm, {load.new_tokens} new")
        warm.append(subject.generate(workload.prompt(length, prefix), 1).first)
        chunk.append(_chunk_seconds(llm, workload.prompt(length, prefix), load.new_tokens))
        if peer is not None:
            say(f"run {run + 1} of {runs}: {length:,} tokens, {peer.name}")
            other.append(peer.generate(prompt, 1).first)
    return PrefixTimes(Summary.of(cold), Summary.of(warm), Summary.of(chunk), Summary.of(other) if other else None)


def prefix_rows(times: PrefixTimes, peer_name: str) -> list[Row]:
    """Times, and how each compares."""
    rows: list[Row] = [
        {"what": "cold", "TTFT, s": times.cold, "ratio": None, "of": ""},
        {"what": "warm", "TTFT, s": times.warm, "ratio": times.warm.over(times.cold), "of": "warm / cold"},
        {"what": "new tokens alone", "TTFT, s": times.chunk, "ratio": times.warm.over(times.chunk), "of": "warm / alone"},
    ]
    if times.peer is not None:
        ratio = times.cold.over(times.peer)
        rows.append({"what": f"{peer_name}, cold", "TTFT, s": times.peer, "ratio": ratio, "of": f"cold / {peer_name}"})
    return rows


def _chunk_seconds(llm: LLM, prompt: list[int], new_tokens: int) -> float:
    """Time of the model alone over the tokens of `prompt` that the cache does not hold."""
    core = llm.core
    core.submit(Submit(request_id=FLOOR_ID, prompt_token_ids=prompt, params=fixed_length(1)))
    step, _ = core.runner.prepare(core.scheduler.schedule())
    if len(step.token_ids) != new_tokens:
        raise RuntimeError(f"the chunk has {len(step.token_ids)} rows, not {new_tokens}: the prefix was not reused")
    start = perf_counter()
    core.runner.execute(step)
    seconds = perf_counter() - start
    core.abort(Abort(FLOOR_ID))
    return seconds
