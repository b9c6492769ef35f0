"""The prefix benchmark on a tiny model."""

import pytest

from tiercel import LLM
from tiercel.bench import prefix
from tiercel.bench.measure import Generation, Summary
from tiercel.bench.prefix import PrefixLoad, PrefixTimes, measure_prefix, prefix_rows
from tiercel.bench.workload import Workload


class Peer:
    name = "peer"

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def generate(self, prompt: list[int], num_tokens: int) -> Generation:
        self.lengths.append(len(prompt))
        return Generation([0], 4.0, 0.0)


def test_the_warm_prompt_reuses_the_whole_prefix(llm: LLM) -> None:
    peer = Peer()
    before = llm.stats().prefix_hit_tokens
    times = measure_prefix(llm, peer, PrefixLoad(256, 64), 2, Workload(259), lambda text: None)
    reused = llm.stats().prefix_hit_tokens - before
    assert reused == 2 * 2 * 256  # in each run the warm request, and the chunk measured alone
    assert [len(summary.values) for summary in (times.cold, times.warm, times.chunk)] == [2, 2, 2]
    assert peer.lengths == [64, 320, 320]
    assert times.peer == Summary((4.0, 4.0))


def test_nothing_is_left_behind(llm: LLM) -> None:
    measure_prefix(llm, None, PrefixLoad(128, 64), 1, Workload(259), lambda text: None)
    stats = llm.stats()
    llm.core.check_integrity()
    assert (stats.requests_running, stats.requests_waiting, stats.kv_blocks_used) == (0, 0, 0)


def test_a_prefix_that_is_not_reused_is_an_error(llm: LLM) -> None:
    with pytest.raises(RuntimeError, match="was not reused"):
        prefix._chunk_seconds(llm, Workload(259).prompt(320), 64)


def test_rows_compare() -> None:
    times = PrefixTimes(Summary((8.0, 9.0)), Summary((2.0, 3.0)), Summary((1.0, 2.0)), Summary((4.0, 3.0)))
    ratios = {row["of"]: row["ratio"] for row in prefix_rows(times, "peer")}
    assert ratios["warm / cold"] == Summary((0.25, 3.0 / 9.0))
    assert ratios["warm / alone"] == Summary((2.0, 1.5))
    assert ratios["cold / peer"] == Summary((2.0, 3.0))
    assert len(prefix_rows(times._replace(peer=None), "")) == 3
