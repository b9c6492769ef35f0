"""What the runner hands to a back end."""

import numpy as np

from tests.support.engines import Setup, make_core, submit
from tiercel.engine.runner import sampling_batch


def scheduled_step(core):
    """The arrays of the next step, without computing it."""
    return core.runner.prepare(core.scheduler.schedule())


def test_chunks_and_decodes_stand_in_one_step():
    core = make_core(Setup(max_num_batched_tokens=100))
    core.submit(submit("short", [5, 6, 7], max_tokens=4))
    core.step()
    core.submit(submit("long", range(150)))
    step, samples = scheduled_step(core)
    (batch,) = step.groups
    assert step.token_ids[1:].tolist() == list(range(99))
    assert step.positions.tolist() == [3, *range(99)]
    assert batch.query_start.tolist() == [0, 1, 100]
    assert batch.lengths.tolist() == [4, 99]
    assert [(r.request_id, r.index) for r in samples] == [("short", 0)], "half a prompt samples nothing"
    slots = batch.slot_mapping
    tables = batch.block_tables
    assert slots[0] == tables[0, 0] * 64 + 3
    assert slots[1:].tolist() == [int(tables[1, p // 64]) * 64 + p % 64 for p in range(99)]


def test_every_sample_of_a_prompt_is_drawn_from_its_last_row():
    core = make_core(Setup())
    core.submit(submit("a", range(10), n=3, seed=9))
    step, samples = scheduled_step(core)
    assert step.sampling.rows.tolist() == [9, 9, 9]
    assert [r.index for r in samples] == step.sampling.sample_index.tolist() == [0, 1, 2]
    assert step.sampling.seed.tolist() == [9, 9, 9]


def test_the_random_number_moves_with_the_output():
    core = make_core(Setup())
    core.submit(submit("a", range(10), max_tokens=5))
    positions = []
    for _ in range(3):
        core.step()
        positions += sampling_batch(core.scheduler.running, [0]).output_position.tolist()
    assert positions == [1, 2, 3]


def test_end_of_text_is_held_back_until_min_tokens():
    core = make_core(Setup(eos_token_ids=(2,)))
    core.submit(submit("a", range(10), max_tokens=9, min_tokens=2, stop_token_ids=(4,), logit_bias={4: 1.0, 5: 0.5}))
    held = []
    for _ in range(3):
        step, _ = scheduled_step(core)
        ((ids, values),) = step.sampling.logit_bias
        held.append(dict(zip(ids.tolist(), values.tolist(), strict=True)))
        core.step()
    assert held == [{2: -np.inf, 4: -np.inf, 5: 0.5}] * 2 + [{4: 1.0, 5: 0.5}]


def test_penalties_see_prompt_and_output_apart():
    core = make_core(Setup())
    core.submit(submit("a", [1, 2, 3], max_tokens=5, frequency_penalty=0.5))
    core.step()
    (request,) = core.scheduler.running
    batch = sampling_batch([request], [0])
    assert batch.prompt_tokens[0].tolist() == [1, 2, 3]
    assert batch.output_tokens[0].tolist() == request.token_ids[3:]
    assert len(batch.output_tokens[0]) == 1
