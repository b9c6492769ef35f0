"""The disk tier, from settings."""

from collections.abc import Sequence

from tiercel.config import DiskPlan, EngineConfig
from tiercel.kv import Tier, WritePolicy
from tiercel.stores import FileStore, Store
from tiercel.telemetry import get_logger
from tiercel.types import InvalidInput, KVGroup, Namespace

log = get_logger("tiercel.engine")


def open_store(plan: DiskPlan | None) -> Store | None:
    """The store that a plan describes. None where there is no plan, or where the default place cannot be used.

    Raises InvalidInput if the user named the place.
    """
    if plan is None:
        return None
    try:
        return FileStore(plan.path, capacity=plan.capacity, free_floor=plan.free_floor)
    except OSError as error:
        reason = error.strerror or str(error)
        if plan.explicit:
            raise InvalidInput(
                "kv_disk", f"cannot keep KV in {plan.path}: {reason}; name another folder, or turn it off (kv_disk=off)"
            ) from error
        log.warning("KV is not kept on disk", path=str(plan.path), reason=reason)
        return None


def disk_tier(config: EngineConfig, store: Store, namespace: Namespace, groups: Sequence[KVGroup]) -> Tier:
    rate = float("inf") if config.kv_disk_rate == "unlimited" else float(config.kv_disk_rate)
    return Tier("disk", store, namespace, groups, bytes_per_second=rate)


def write_policy(config: EngineConfig) -> WritePolicy:
    return WritePolicy(config.kv_disk_touches, config.kv_disk_min_tokens)
