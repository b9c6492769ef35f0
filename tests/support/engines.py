"""Engines for tests: the real scheduler, cache and runner around any executor, and the plain loop they are compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

import numpy as np

from tiercel.engine.core import EngineCore
from tiercel.engine.messages import SampleUpdate, Submit
from tiercel.engine.request import make_samples
from tiercel.engine.runner import ModelRunner, sampling_batch
from tiercel.engine.scheduler import Scheduler
from tiercel.kv import Arena, HashChain, KVCacheManager, Tier, WritePolicy, root_hash
from tiercel.models.executor import Executor
from tiercel.models.null import NullExecutor, null_groups
from tiercel.stores import Store
from tiercel.types import BLOCK_TOKENS, AttentionBatch, KVGroup, Namespace, SamplingParams, StepInput

NAMESPACE = Namespace(weights="test", network="none", numerics="test")
MakeExecutor = Callable[[Sequence[KVGroup], Arena], Executor]


@dataclass(frozen=True)
class Setup:
    """One configuration of an engine."""

    windows: tuple[int | None, ...] = (None,)
    num_blocks: int = 32
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 64
    prefix_caching: bool = True
    max_model_len: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    policy: WritePolicy = field(default_factory=WritePolicy)


def null_executor(vocab_size: int = 50) -> MakeExecutor:
    return lambda groups, arena: NullExecutor(groups, arena, vocab_size)


def make_core(
    setup: Setup,
    groups: Sequence[KVGroup] | None = None,
    make: MakeExecutor | None = None,
    store: Store | None = None,
) -> EngineCore:
    """store: what lies below the device; close the core when it has one."""
    groups = groups or null_groups(setup.windows)
    manager = KVCacheManager(groups, setup.num_blocks, NAMESPACE, prefix_caching=setup.prefix_caching)
    arena = Arena(groups, setup.num_blocks)
    executor = (make or null_executor())(groups, arena)
    if store is not None and setup.prefix_caching:
        manager.attach(Tier("test", store, NAMESPACE, groups), arena, setup.policy)
    return EngineCore(
        ModelRunner(executor, manager),
        Scheduler(manager, max_num_seqs=setup.max_num_seqs, max_num_batched_tokens=setup.max_num_batched_tokens),
        manager,
        max_model_len=setup.max_model_len or setup.num_blocks * BLOCK_TOKENS,
        eos_token_ids=setup.eos_token_ids,
        grammars=lambda: None,
    )


def run_to_end(core: EngineCore, limit: int = 100_000) -> dict[tuple[str, int], list[int]]:
    """Steps until nothing is left, checking integrity after every step. Tokens by (request, sample)."""
    tokens: dict[tuple[str, int], list[int]] = {}
    for _ in range(limit):
        if not core.has_work:
            return tokens
        collect(tokens, core.step())
        core.check_integrity()
    raise AssertionError("the engine does not come to an end")


def settle(core: EngineCore, seconds: float = 60.0) -> None:
    """Waits until nothing is being loaded or written any more, though the engine has nothing to compute."""
    deadline = monotonic() + seconds
    while any(pool.num_free < pool.num_blocks for pool in core.manager.pools) and monotonic() < deadline:
        core.manager.wait(0.01)
        core.manager.poll()


def collect(tokens: dict[tuple[str, int], list[int]], updates: Sequence[SampleUpdate]) -> None:
    for update in updates:
        tokens.setdefault((update.request_id, update.index), []).extend(update.token_ids)


def plain_loop(
    submit: Submit, groups: Sequence[KVGroup], make: MakeExecutor, *, eos_token_ids: tuple[int, ...] = (), longest: int = 10**9
) -> list[list[int]]:
    """What a request's samples must be: each alone, everything computed anew at every step in one chunk, no cache, no batch."""
    first = make_samples(
        submit,
        seed=(submit.params.seed or 0) % 2**64,
        arrival=0,
        chain=HashChain(root_hash(NAMESPACE)),
        eos_token_ids=eos_token_ids,
    )
    results = []
    for sample in [first, *first.siblings]:
        limit = min(sample.params.max_tokens or 10**9, longest - sample.num_prompt_tokens)
        executor = make(groups, Arena(groups, (len(sample.token_ids) + limit) // BLOCK_TOKENS + 1))
        while sample.num_output_tokens < limit:
            step = replace(
                whole_step(sample.token_ids, len(groups)), sampling=sampling_batch([sample], [sample.num_tokens - 1])
            )
            token_id = int(executor.execute(step).token_ids[0])
            if token_id in sample.stop_token_ids:
                break
            sample.token_ids.append(token_id)
        results.append(sample.token_ids[sample.num_prompt_tokens :])
    return results


def whole_step(token_ids: Sequence[int], num_groups: int) -> StepInput:
    """All tokens of one sequence in one step, blocks in order."""
    count = len(token_ids)
    positions = np.arange(count, dtype=np.int32)
    batch = AttentionBatch(
        query_start=np.array([0, count], np.int32),
        q_positions=positions,
        block_tables=np.arange(-(-count // BLOCK_TOKENS), dtype=np.int32)[None],
        lengths=np.array([count], np.int32),
        slot_mapping=positions.astype(np.int64),
    )
    no_copies = np.empty((0, 2), np.int32)
    return StepInput(
        np.array(token_ids, np.int32), positions, (batch,) * num_groups, (no_copies,) * num_groups, sampling_batch([], [])
    )


def submit(request_id: str, prompt: Sequence[int], priority: int = 0, salt: str = "", **params: object) -> Submit:
    return Submit(
        request_id=request_id,
        prompt_token_ids=list(prompt),
        params=SamplingParams(**{"temperature": 0.0, "seed": 7, **params}),
        priority=priority,
        cache_salt=salt,
    )
