"""The memory system: blocks, their identity, who holds them, what can be reused, and the tiers they move between."""

from tiercel.kv.arena import Arena
from tiercel.kv.block import BlockContent, Copy, KVBlock
from tiercel.kv.hashing import HashChain, block_hash, namespace_id, root_hash
from tiercel.kv.manager import KVCacheManager
from tiercel.kv.pool import BlockPool
from tiercel.kv.tier import Tier
from tiercel.kv.write_behind import WritePolicy

__all__ = [
    "Arena",
    "BlockContent",
    "BlockPool",
    "Copy",
    "HashChain",
    "KVBlock",
    "KVCacheManager",
    "Tier",
    "WritePolicy",
    "block_hash",
    "namespace_id",
    "root_hash",
]
