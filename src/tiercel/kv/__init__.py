"""The memory system: blocks, their identity, who holds them, and what can be reused."""

from tiercel.kv.arena import Arena
from tiercel.kv.block import Copy, KVBlock
from tiercel.kv.hashing import HashChain, block_hash, namespace_id, root_hash
from tiercel.kv.manager import KVCacheManager
from tiercel.kv.pool import BlockPool

__all__ = [
    "Arena",
    "BlockPool",
    "Copy",
    "HashChain",
    "KVBlock",
    "KVCacheManager",
    "block_hash",
    "namespace_id",
    "root_hash",
]
