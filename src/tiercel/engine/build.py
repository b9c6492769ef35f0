"""Puts an engine together from settings: the one place that knows all its parts."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from tiercel.config import EngineConfig, resolve_disk, resolve_model_cache
from tiercel.engine.compute import Compute, resolve_compute
from tiercel.engine.core import EngineCore
from tiercel.engine.disk import disk_tier, open_store, write_policy
from tiercel.engine.plan import EnginePlan, make_plan
from tiercel.engine.runner import ModelRunner
from tiercel.engine.scheduler import Scheduler
from tiercel.engine.structured import GrammarCompiler
from tiercel.kv import Arena, KVCacheManager
from tiercel.models import Checkpoint, ModelExecutor, kv_groups, load_model, open_prepared, resolve_model
from tiercel.platforms import detect
from tiercel.telemetry import get_logger
from tiercel.types import KVGroup, KVLayout, Namespace

log = get_logger("tiercel.engine")

_POPULATED = 256 << 20  # bytes of KV memory that are made ready while the model is built


@dataclass(frozen=True, eq=False)
class Engine:
    """An engine that is ready to step, and what it was made of."""

    core: EngineCore
    plan: EnginePlan
    checkpoint: Checkpoint


class Identity(NamedTuple):
    """What the blocks of an engine depend on besides tokens, and how they are laid out."""

    checkpoint: Checkpoint
    namespace: Namespace
    groups: list[KVGroup]


def load_checkpoint(config: EngineConfig) -> Checkpoint:
    """Finds and opens the model. Raises ModelError saying how to get it, CheckpointError if its files are broken."""
    return open_prepared(resolve_model(config.model), resolve_model_cache(config))


def build_engine(config: EngineConfig, checkpoint: Checkpoint | None = None) -> Engine:
    """Raises InvalidInput and ModelError before any large allocation."""
    checkpoint = checkpoint or load_checkpoint(config)
    platform = detect()
    compute = resolve_compute(config, checkpoint.config, platform)
    if compute.why_not_native:
        log.warning("computing on the reference back end", reason=compute.why_not_native)
    groups = layout_groups(compute, checkpoint)
    weight_bytes = compute.weight_bytes(checkpoint)
    disk = resolve_disk(config) if config.prefix_caching else None
    store = open_store(disk)
    kept = disk if store is not None else None
    plan = make_plan(config, checkpoint.config, groups, weight_bytes, platform, compute, disk=kept)
    ops = compute.load()
    own = namespace(config, checkpoint, compute.numerics(ops, checkpoint))
    manager = KVCacheManager(groups, plan.num_blocks, own, prefix_caching=config.prefix_caching)
    arena = Arena(groups, plan.num_blocks)
    arena.populate(min(_POPULATED, plan.kv_bytes // 4))
    prepared = checkpoint.folder / f"{compute.dtype}.program" if checkpoint.folder is not None else None
    executor = ModelExecutor(load_model(checkpoint, ops, groups, prepared), ops, groups, arena)
    if store is not None:
        manager.attach(disk_tier(config, store, own, groups), arena, write_policy(config))
    scheduler = Scheduler(manager, max_num_seqs=plan.max_num_seqs, max_num_batched_tokens=plan.max_num_batched_tokens)
    core = EngineCore(
        ModelRunner(executor, manager),
        scheduler,
        manager,
        max_model_len=plan.max_model_len,
        eos_token_ids=checkpoint.config.eos_token_ids,
        grammars=cache(lambda: GrammarCompiler(checkpoint.tokenizer, checkpoint.config.vocab_size)),
    )
    return Engine(core, plan, checkpoint)


def identify(config: EngineConfig) -> Identity:
    """Who an engine with these settings would be, without building its model. Raises what `build_engine` raises."""
    checkpoint = load_checkpoint(config)
    compute = resolve_compute(config, checkpoint.config, detect())
    numerics = compute.numerics(compute.load(), checkpoint)
    return Identity(checkpoint, namespace(config, checkpoint, numerics), layout_groups(compute, checkpoint))


def layout_groups(compute: Compute, checkpoint: Checkpoint) -> list[KVGroup]:
    """The model's KV groups with their byte layout."""
    model = checkpoint.config
    return [
        KVGroup(KVLayout(spec.layers, model.num_kv_heads, model.head_dim, compute.kv_dtype), spec.window)
        for spec in kv_groups(model)
    ]


def namespace(config: EngineConfig, checkpoint: Checkpoint, numerics: str) -> Namespace:
    """What the bytes of this engine's blocks depend on besides tokens. numerics: class of the back end and its KV format."""
    model = checkpoint.config
    windows = [(spec.layers, spec.window) for spec in kv_groups(model)]
    return Namespace(
        weights=checkpoint.fingerprint,
        network=repr((model.architecture, model.num_heads, model.rms_norm_eps, model.rope, windows)),
        numerics=numerics,
        tenant=config.tenant,
    )
