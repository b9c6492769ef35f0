"""Who a block is: content, inside a namespace."""

from dataclasses import dataclass
from typing import NamedTuple, NewType

BlockHash = NewType("BlockHash", bytes)  # 32 bytes: BLAKE3 over (parent, token ids, extras)

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Namespace:
    """Everything besides tokens that a block's bytes depend on. Equal namespaces may share blocks; others never do.

    weights: hex fingerprint of the weights' values; network: settings that the weights do not tell, as text; numerics: class
    name of the back end's accumulation order, weight format and KV format; tenant: a salt that keeps tenants apart.
    """

    weights: str
    network: str
    numerics: str
    tenant: str = ""
    format_version: int = FORMAT_VERSION


class BlockKey(NamedTuple):
    """The name of one stored object: a rank's share of one block of one KV group.

    namespace: 32 hex digits, `tiercel.kv.namespace_id`; group: index of the KV group; heads: first KV head, number of them.
    """

    namespace: str
    block_hash: BlockHash
    group: int
    heads: tuple[int, int]
