"""Identity of KV blocks: a BLAKE3 chain with one link every BLOCK_TOKENS tokens, rooted in a namespace."""

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
from blake3 import blake3

from tiercel.kv.block import BlockContent
from tiercel.types import BLOCK_TOKENS, BlockHash, Namespace


def namespace_id(namespace: Namespace) -> str:
    """32 hex digits that stand for a namespace in the keys of stored objects."""
    return blake3(_framed(*astuple(namespace)), derive_key_context="tiercel 2026 kv namespace").hexdigest(16)


def root_hash(namespace: Namespace, salt: str = "") -> BlockHash:
    """The parent of every first block. `salt` parts the requests of one namespace that must not share (tenants of a server)."""
    framed = _framed(*astuple(namespace), salt)
    return BlockHash(blake3(framed, derive_key_context="tiercel 2026 kv block chain root").digest())


def block_hash(parent: BlockHash, tokens: bytes, extras: bytes = b"") -> BlockHash:
    """Hash of one block. tokens: BLOCK_TOKENS little-endian int32; extras: what else its content depends on (LoRA, media)."""
    return BlockHash(blake3(parent + tokens + extras).digest())


class HashChain:
    """The hashes of one token sequence's full blocks, and what they stand for; extended as it grows.

    Kept over preemptions: tokens never change.
    """

    def __init__(self, root: BlockHash, salt: str = "") -> None:
        self.root = root
        self.salt = salt
        self.links: list[BlockHash] = []
        self.contents: list[BlockContent] = []

    def extend(self, token_ids: Sequence[int]) -> None:
        """Adds a link for every full block of `token_ids` that is not covered yet. token_ids: the sequence from its start."""
        for index in range(len(self.links), len(token_ids) // BLOCK_TOKENS):
            start = index * BLOCK_TOKENS
            tokens = np.asarray(token_ids[start : start + BLOCK_TOKENS], dtype="<i4").tobytes()
            parent = self.links[-1] if self.links else self.root
            self.links.append(block_hash(parent, tokens))
            self.contents.append(BlockContent(parent, tokens, start))

    def copy(self) -> "HashChain":
        copied = HashChain(self.root, self.salt)
        copied.links, copied.contents = list(self.links), list(self.contents)
        return copied


def reusable_blocks(num_tokens: int) -> int:
    """Blocks of a sequence that can come from a cache: full ones, and one token at least is computed."""
    return (num_tokens - 1) // BLOCK_TOKENS


def _framed(*values: object) -> bytes:
    """The values as text, each behind its length, so that none runs into the next."""
    fields = [str(value).encode(errors="surrogatepass") for value in values]
    return b"".join(len(field).to_bytes(8, "little") + field for field in fields)
