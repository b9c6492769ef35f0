"""The cache is transparent: whatever the schedule, every request gets the tokens it would get alone and without a cache.

Random arrivals, shared prefixes, tiny pools (so preemption), small budgets (so chunks), several samples, cancellations,
priorities and cache clearing, on groups with and without windows. The null model's next token depends on every token it sees.
The same again over stores: with restarts, after which unfinished requests are asked anew, and with stores that fail in every
way.
"""

from collections import Counter
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.engines import Setup, collect, make_core, null_executor, plain_loop, run_to_end, settle, submit
from tests.support.networks import NETWORKS, groups, weights, widened
from tests.support.stores import Fault, FaultyStore, at_random
from tiercel.engine.messages import Abort
from tiercel.kv import WritePolicy
from tiercel.models import ModelExecutor, build_model
from tiercel.models.null import null_groups
from tiercel.ops import load_ops
from tiercel.ops.cpu import CpuOps
from tiercel.stores import MemoryStore
from tiercel.types import BLOCK_TOKENS

B = BLOCK_TOKENS
reference_ops = cache(load_ops)

setups = st.builds(
    Setup,
    windows=st.sampled_from([(None,), (None, 70), (1,), (130,), (None, 2, 65)]),
    num_blocks=st.integers(5, 14),
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.sampled_from([6, 17, 64, 200]),
    prefix_caching=st.sampled_from([True, True, True, False]),
    eos_token_ids=st.sampled_from([(), (3,)]),
)


@st.composite
def workloads(draw):
    """Requests with their arrival step, and the steps at which something is cancelled or the cache is cleared."""
    count = draw(st.integers(1, 7))
    requests = []
    for index in range(count):
        stem, shared = draw(st.integers(0, 1)), draw(st.sampled_from([0, 1, 63, 64, 65, 128, 150, 192]))
        own = draw(st.integers(1, 90))
        prompt = [(stem * 17 + i) % 50 for i in range(shared)] + [(index * 7 + i * i) % 50 for i in range(own)]
        params = {
            "n": draw(st.sampled_from([1, 1, 1, 2, 3])),
            "max_tokens": draw(st.integers(1, 80)),
            "temperature": draw(st.sampled_from([0.0, 1.0])),
            "seed": draw(st.integers(0, 5)),
        }
        request = submit(
            f"r{index}", prompt, priority=draw(st.integers(0, 2)), salt=draw(st.sampled_from(["", "", "x"])), **params
        )
        requests.append((draw(st.integers(0, 60)), request))
    cancel = draw(st.lists(st.tuples(st.integers(0, 80), st.integers(0, count - 1)), max_size=2))
    clear = draw(st.lists(st.integers(0, 80), max_size=1))
    return requests, cancel, clear


def check_schedule(setup, workload, groups, make, store=None, restarts=()):
    """restarts: steps before which the engine ends and a new one begins, with nothing but what the store kept.

    Over a store everything is asked once more in the end, of an engine that has only the store to go by.
    """
    requests, cancel, clear = workload
    longest = setup.num_blocks * B
    usable = [(at, r) for at, r in requests if len(r.prompt_token_ids) < longest and r.params.n <= setup.max_num_seqs]
    core = make_core(setup, groups, make, store)
    tokens, cancelled, unfinished, ended = {}, set(), {}, Counter()
    pending = sorted(usable, key=lambda pair: pair[0])
    for step in range(200_000):
        if step in restarts:
            core.close()
            core = make_core(setup, groups, make, store)
            tokens = {key: ids for key, ids in tokens.items() if key[0] not in unfinished}
            for request in unfinished.values():
                core.submit(request)
                ended[request.request_id] = 0
        while pending and pending[0][0] <= step:
            request = pending.pop(0)[1]
            core.submit(request)
            unfinished[request.request_id] = request
        for at, index in cancel:
            if at == step:
                core.abort(Abort(f"r{index}"))
                unfinished.pop(f"r{index}", None)
                cancelled.add(f"r{index}")
        if step in clear:
            core.forget()
        updates = core.step()
        collect(tokens, updates)
        core.check_integrity()
        ended.update(update.request_id for update in updates if update.finish_reason)
        unfinished = {name: request for name, request in unfinished.items() if ended[name] < request.params.n}
        if not pending and not core.has_work:
            break
    assert not core.has_work, "the engine does not come to an end"
    settle(core)
    core.check_integrity()
    assert all(pool.num_free == pool.num_blocks for pool in core.manager.pools), "blocks leaked"
    core.close()
    again = {} if store is None else ask_all([request for _, request in usable], make_core(setup, groups, make, store))
    for _, request in usable:
        alone = plain_loop(request, groups, make, eos_token_ids=setup.eos_token_ids, longest=longest)
        for index, expected in enumerate(alone):
            got = tokens.get((request.request_id, index), [])
            if request.request_id in cancelled:
                expected = expected[: len(got)]
            assert got == expected, f"{request.request_id}/{index}"
            if store is not None:
                assert again[request.request_id, index] == alone[index], f"{request.request_id}/{index} asked again"
    return core


def ask_all(requests, core):
    for request in requests:
        core.submit(request)
    tokens = {(request.request_id, index): [] for request in requests for index in range(request.params.n)}
    tokens |= run_to_end(core)
    core.close()
    return tokens


@given(setups, workloads())
def test_any_schedule_gives_the_tokens_of_the_plain_loop(setup, workload):
    check_schedule(setup, workload, null_groups(setup.windows), null_executor())


@given(st.sampled_from(["llama", "mistral-window", "qwen3-window"]), setups, workloads())
@settings(max_examples=12)
def test_any_schedule_gives_the_tokens_of_the_plain_loop_in_float32(name, setup, workload):
    """The same with the reference back end's arithmetic: equal tokens need bit-equal logits, whatever chunk, batch or cache."""
    network = NETWORKS[name]
    ops = reference_ops()
    model = build_model(network.config, weights(network), ops)
    check_schedule(setup, workload, groups(network.config), lambda kv, arena: ModelExecutor(model, ops, kv, arena))


@cache
def native_model(name, dtype):
    network, ops = widened(NETWORKS[name]), CpuOps(threads=1, dtype=dtype)
    return network, ops, weights(network)


@pytest.mark.parametrize("kv_format", ["bfloat16", "int8", "int4", "int4-plain"])
@given(
    st.sampled_from(["llama", "qwen3-window"]),
    st.sampled_from(["bf16", "int8"]),
    setups,
    workloads(),
    st.sets(st.integers(1, 80)),
)
@settings(max_examples=8)
def test_any_schedule_gives_the_tokens_of_the_plain_loop_natively(kv_format, name, dtype, setup, workload, restarts):
    """The same on the native back end with every KV format, over a store from which sealed blocks come back as they were."""
    network, ops, tensors = native_model(name, dtype)
    kv_groups = groups(network.config, kv_format=kv_format)
    model = ops.compile(build_model(network.config, tensors, ops), [group.layout for group in kv_groups])
    check_schedule(setup, workload, kv_groups, lambda kv, arena: ModelExecutor(model, ops, kv, arena), MemoryStore(), restarts)


restarts = st.sets(st.integers(1, 80), max_size=3)
policies = st.builds(WritePolicy, touches=st.integers(1, 2), min_tokens=st.sampled_from([0, 0, 100]))


capacities = st.sampled_from([None, None, 5_000, 30_000])


@given(setups, workloads(), restarts, policies, capacities)
def test_any_schedule_gives_the_tokens_of_the_plain_loop_over_a_store(setup, workload, restarts, policy, capacity):
    setup = replace(setup, policy=policy)
    check_schedule(setup, workload, null_groups(setup.windows), null_executor(), MemoryStore(capacity), restarts)


faults = st.one_of(
    st.sampled_from(Fault).map(lambda fault: {fault: 0.4}),
    st.dictionaries(st.sampled_from(Fault), st.floats(0, 0.14)),
)


@given(setups, workloads(), restarts, faults, st.integers(0, 2**32))
def test_any_schedule_gives_the_tokens_of_the_plain_loop_over_a_store_that_fails(setup, workload, restarts, faults, seed):
    store = FaultyStore(MemoryStore(), at_random(Random(seed), faults), seed)
    check_schedule(setup, workload, null_groups(setup.windows), null_executor(), store, restarts)


def test_the_schedules_reach_what_they_are_meant_to_reach():
    """A fixed crowd in a tiny pool preempts, reuses, copies on write and evicts: else the test above would prove little."""
    setup = Setup(num_blocks=8, max_num_seqs=6, max_num_batched_tokens=20)
    requests = [(i, submit(f"r{i}", [*range(100), i], n=1 + i % 3, max_tokens=60, temperature=1.0)) for i in range(6)]
    core = check_schedule(setup, (requests, [], []), null_groups(), null_executor())
    stats = core.stats()
    assert stats.preemptions > 0
    assert stats.prefix_hit_tokens > 0
    assert stats.evictions > 0
    assert stats.kv_blocks_used == 0


def test_generated_tokens_are_reused_by_the_next_turn():
    core = make_core(Setup())
    core.submit(submit("first", range(40), max_tokens=100))
    answer = run_to_end(core)["first", 0]
    conversation = [*range(40), *answer, 1, 2, 3]
    core.submit(submit("second", conversation, max_tokens=2))
    run_to_end(core)
    assert core.stats().prefix_hit_tokens == (40 + 100 - 1) // B * B


def test_a_conversation_goes_on_after_a_restart():
    store = MemoryStore()
    core = make_core(Setup(), store=store)
    core.submit(submit("first", range(40), max_tokens=100))
    answer = run_to_end(core)["first", 0]
    core.close()
    core = make_core(Setup(), store=store)
    core.submit(submit("second", [*range(40), *answer, 1, 2, 3], max_tokens=2))
    run_to_end(core)
    assert core.stats().prefix_stored_tokens == (40 + 100 - 1) // B * B, "prompt and answer alike"
    core.close()


def test_the_schedules_over_a_store_reach_what_they_are_meant_to_reach():
    """A crowd in a tiny pool, restarted twice, writes, loads and drops: else the test over stores would prove little."""
    setup = Setup(num_blocks=8, max_num_seqs=6, max_num_batched_tokens=20)
    store = MemoryStore()
    requests = [(4 * i, submit(f"r{i}", [*range(150), i], n=1 + i % 2, max_tokens=60)) for i in range(12)]
    core = check_schedule(setup, (requests, [], []), null_groups(), null_executor(), store, {10, 60})
    stats = core.stats()
    assert stats.prefix_stored_tokens > 0
    assert stats.preemptions > 0
    assert store.usage().objects > 5


def test_a_better_priority_takes_the_place_of_a_worse_one():
    core = make_core(Setup(max_num_seqs=1, max_num_batched_tokens=64))
    core.submit(submit("late", range(30), priority=1, max_tokens=50))
    core.step()
    core.submit(submit("urgent", range(100, 130), priority=0, max_tokens=5))
    order = [update.request_id for _ in range(60) if core.has_work for update in core.step() if update.finish_reason]
    assert order == ["urgent", "late"]


def test_a_long_prompt_does_not_stall_those_that_decode():
    core = make_core(Setup(max_num_batched_tokens=16, num_blocks=32))
    core.submit(submit("short", range(10), max_tokens=40))
    core.step()
    core.submit(submit("long", range(1000), max_tokens=1))
    for _ in range(30):
        assert [u.request_id for u in core.step()] == ["short"], "one token in every step"


def test_an_aborted_request_is_gone_before_the_next_step():
    core = make_core(Setup())
    core.submit(submit("a", range(200), n=3, max_tokens=50))
    core.step()
    core.abort(Abort("a"))
    core.abort(Abort("a"))
    core.abort(Abort("unknown"))
    assert not core.has_work
    assert core.step() == []
    core.check_integrity()
    assert core.stats().kv_blocks_used == 0


def test_one_sample_can_be_aborted_and_the_others_go_on():
    core = make_core(Setup(max_num_batched_tokens=300))
    core.submit(submit("a", range(70), n=3, max_tokens=20, temperature=1.0))
    tokens = {}
    collect(tokens, core.step())
    core.abort(Abort("a", 1))
    while core.has_work:
        collect(tokens, core.step())
        core.check_integrity()
    assert [len(tokens["a", i]) for i in range(3)] == [20, 1, 20]


def test_min_tokens_and_stop_token():
    always_three = null_executor(vocab_size=1)  # every sampled token is 0
    core = make_core(Setup(eos_token_ids=(9,)), make=always_three)
    core.submit(submit("a", [1, 2, 3], max_tokens=10, stop_token_ids=(0,)))
    (update,) = core.step()
    assert (update.token_ids, update.finish_reason, update.stop_token) == ([], "stop", 0)


def test_the_plain_loop_sees_every_token():
    """The oracle itself: changing any one prompt token changes what follows."""
    prompt = list(range(130))
    base = plain_loop(submit("a", prompt, max_tokens=8), null_groups(), null_executor(10**6))
    for position in np.linspace(0, 129, 14, dtype=int):
        changed = [*prompt[:position], 999, *prompt[position + 1 :]]
        assert plain_loop(submit("a", changed, max_tokens=8), null_groups(), null_executor(10**6)) != base
