"""Random prompts."""

from tiercel.bench.workload import Workload


def test_the_same_seed_gives_the_same_prompts() -> None:
    one, other = Workload(5000, seed=3), Workload(5000, seed=3)
    assert [one.prompt(40), one.prompt(40)] == [other.prompt(40), other.prompt(40)]
    assert one.prompt(40) != one.prompt(40) != Workload(5000, seed=4).prompt(40)


def test_prompts_hold_ordinary_tokens() -> None:
    assert set(Workload(300).prompt(2000)) == set(range(150, 300))
    assert min(Workload(5000).prompt(50_000)) == 256


def test_shared_prefix() -> None:
    prompts = Workload(5000).prompts(4, 30, shared=20)
    assert [len(prompt) for prompt in prompts] == [30] * 4
    assert len({tuple(prompt[:20]) for prompt in prompts}) == 1
    assert len({tuple(prompt[20:]) for prompt in prompts}) == 4
