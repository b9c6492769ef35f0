"""Measurements and their summaries."""

import pytest

from tiercel import LLM, SamplingParams
from tiercel.bench.measure import Generation, Summary, TiercelSubject


def test_summary() -> None:
    summary = Summary.of([3.0, 1.0, 10.0])
    assert (summary.median, summary.low, summary.high) == (3.0, 1.0, 10.0)
    assert Summary.once(2.0).values == (2.0,)


def test_ratios_pair_the_runs() -> None:
    ratio = Summary.of([2.0, 30.0]).over(Summary.of([1.0, 10.0]))
    assert ratio.values == (2.0, 3.0)
    with pytest.raises(ValueError, match="shorter"):
        Summary.of([1.0, 2.0]).over(Summary.of([1.0]))


def test_time_per_token_leaves_out_the_first() -> None:
    assert Generation([1, 2, 3], first=9.0, rest=4.0).per_token == 2.0
    assert Generation([1], first=9.0, rest=0.0).per_token == 0.0


def test_the_engine_generates_exactly_so_many_tokens(llm: LLM) -> None:
    done = TiercelSubject(llm).generate([10, 20, 30], 12)
    expected = llm.generate([10, 20, 30], SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True))[0]
    assert done.token_ids == expected.samples[0].token_ids
    assert len(done.token_ids) == 12
    assert min(done.first, done.rest) > 0
