"""What this process remembers of blocks that came and went, to explain misses. Bounded; nothing else depends on it."""

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from tiercel.kv.block import BlockContent
from tiercel.types import BLOCK_TOKENS, BlockHash

_MOST_COMPARED = 1024  # continuations of one prefix; all prompts continue the empty one

Fate = Literal["here", "evicted", "not_written"]


@dataclass(slots=True)
class Record:
    """A block that was met. fate: still on the device, or how it was lost from there."""

    content: BlockContent
    fate: Fate = "here"


@dataclass(frozen=True)
class Divergence:
    """Another continuation of the same prefix. position: of the first token that differs; cached_token: the known one."""

    position: int
    cached_token: int


class History:
    """The last `limit` blocks that were sealed, and which of them continue the same prefix."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._records: OrderedDict[BlockHash, Record] = OrderedDict()
        self._children: defaultdict[BlockHash, dict[BlockHash, None]] = defaultdict(dict)

    def met(self, block_hash: BlockHash, content: BlockContent) -> None:
        """A block with this content is on the device."""
        self._record(block_hash, Record(content))

    def stored(self, block_hash: BlockHash, content: BlockContent) -> None:
        """A store has a block with this content; unless it is found there when it is asked for, it has gone."""
        if block_hash not in self._records:
            self._record(block_hash, Record(content, "evicted"))

    def lost(self, block_hash: BlockHash, *, stored: bool) -> None:
        """The block left the device. stored: whether a store had it at that time."""
        record = self._records.get(block_hash)
        if record is not None:
            record.fate = "evicted" if stored else "not_written"

    def fate(self, block_hash: BlockHash) -> Fate | None:
        """What became of a block; None = not remembered."""
        record = self._records.get(block_hash)
        return record.fate if record is not None else None

    def divergence(self, content: BlockContent) -> Divergence | None:
        """Where a block departs from those last met that continue the same prefix; the one that agrees longest counts."""
        siblings = islice(reversed(self._children.get(content.parent, {})), _MOST_COMPARED)
        texts = [self._records[block_hash].content.tokens for block_hash in siblings]
        known = np.frombuffer(b"".join(texts), "<i4").reshape(len(texts), BLOCK_TOKENS)
        differs = known != np.frombuffer(content.tokens, "<i4")
        agreeing = np.where(differs.any(axis=1), differs.argmax(axis=1), -1)  # tokens before the first that is another
        if not (agreeing >= 0).any():
            return None
        best = agreeing.argmax()
        return Divergence(content.first_position + int(agreeing[best]), int(known[best, agreeing[best]]))

    def _record(self, block_hash: BlockHash, record: Record) -> None:
        self._records[block_hash] = record
        self._records.move_to_end(block_hash)
        self._children[record.content.parent][block_hash] = None
        if len(self._records) > self._limit:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        block_hash, record = self._records.popitem(last=False)
        siblings = self._children[record.content.parent]
        del siblings[block_hash]
        if not siblings:
            del self._children[record.content.parent]
