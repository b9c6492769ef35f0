"""Blocks in their stored form, made without a model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tiercel.kv import block_hash, namespace_id, root_hash
from tiercel.kv.block import BlockContent
from tiercel.kv.objects import encode_header, token_bytes
from tiercel.stores import Status, Store, Write
from tiercel.types import BLOCK_TOKENS, BlockHash, BlockKey, KVLayout, Namespace

SMALL = KVLayout(layers=(0, 1, 2), num_kv_heads=1, head_dim=1)
SPACE = Namespace("ab" * 32, "rope 10000", "reference float32")
OTHER_SPACE = Namespace("cd" * 32, "rope 10000", "reference float32")


class StoredBlock(NamedTuple):
    """An object as a store holds it."""

    key: BlockKey
    data: bytes


def random_payload(layout: KVLayout, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(layout.block_bytes)


def make_object(key: BlockKey, content: BlockContent, layout: KVLayout, seed: int = 0) -> StoredBlock:
    payload = random_payload(layout, seed)
    return StoredBlock(key, encode_header(key, content, layout, memoryview(payload)) + payload)


def make_chain(
    token_ids: Sequence[int], namespace: Namespace = SPACE, layout: KVLayout = SMALL, group: int = 0
) -> list[StoredBlock]:
    """The stored blocks of a prompt, first to last."""
    blocks, parent = [], root_hash(namespace)
    for start in range(0, len(token_ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        tokens = token_bytes(token_ids[start : start + BLOCK_TOKENS])
        link = block_hash(parent, tokens)
        key = BlockKey(namespace_id(namespace), link, group, (0, layout.num_kv_heads))
        blocks.append(make_object(key, BlockContent(parent, tokens, start), layout, seed=len(blocks)))
        parent = link
    return blocks


def put_all(store: Store, blocks: Sequence[StoredBlock]) -> None:
    results = store.put([Write(block.key, (memoryview(block.data),)) for block in blocks], float("inf"))
    assert {result.status for result in results} <= {Status.OK}


def flip_bit(data: bytes, place: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def a_hash(seed: int) -> BlockHash:
    return BlockHash(np.random.default_rng(seed).bytes(32))
