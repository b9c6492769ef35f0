"""Who a block is: content, inside a namespace."""

from dataclasses import dataclass
from typing import NewType

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
