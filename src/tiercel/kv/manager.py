"""The room where requests and blocks meet: which blocks a request reads and writes, and what it can reuse."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from tiercel.kv.arena import Arena
from tiercel.kv.block import KVBlock
from tiercel.kv.explain import explain, explain_off
from tiercel.kv.hashing import HashChain, reusable_blocks, root_hash
from tiercel.kv.history import History
from tiercel.kv.match import first_needed, longest_match
from tiercel.kv.pool import BlockPool
from tiercel.kv.tier import Tier
from tiercel.kv.traffic import Traffic
from tiercel.kv.write_behind import WritePolicy
from tiercel.types import BLOCK_TOKENS, BlockHash, KVGroup, Namespace, Reuse

_LEAST_REMEMBERED = 4096  # blocks, to explain misses


@dataclass(eq=False)
class BlockTables:
    """The blocks of one request: per group a table of blocks, None where a block fell behind the window.

    num_sealed: leading blocks that were sealed; num_offered: those of them that were put forward for writing; first_kept: per
    group, the number of leading None entries.
    """

    chain: HashChain
    tables: list[list[KVBlock | None]]
    first_kept: list[int]
    num_sealed: int = 0
    num_offered: int = 0


class KVCacheManager:
    """Owns the device blocks of every group and the tables of the requests that use them.

    A request goes through: `admit` (takes what can be reused) -> `reserve` before each step -> `seal` after it -> `release`.
    Once there is room for its first step, `started` tells what was reused; without room, it is released and waits on.
    `fork` lets a second sample start from the same blocks; the first of them to write into a shared block gets a copy of it.
    With a tier below (`attach`), a request that waits is looked up there and what is found is loaded before it is admitted:
    `look_up` -> until not `is_looking` -> `start_load` -> until not `is_loading` -> `admit`. None of these waits for anything.
    Called by one thread. Nothing is changed by a call that returns False or raises.
    """

    def __init__(
        self, groups: Sequence[KVGroup], num_blocks: int, namespace: Namespace, *, prefix_caching: bool = True
    ) -> None:
        self.groups = tuple(groups)
        self.pools = tuple(BlockPool(num_blocks, group.layout.format) for group in groups)
        self.namespace = namespace
        self._prefix_caching = prefix_caching
        self._requests: dict[str, BlockTables] = {}
        # Per group: destination slot -> source. Sources are pinned: were one given up and taken for a load, which does not wait
        # for the step, the copy would find other bytes.
        self._copies: list[dict[int, KVBlock]] = [{} for _ in groups]
        self._history = History(max(_LEAST_REMEMBERED, 4 * num_blocks))
        self._below: Traffic | None = None
        for group, pool in enumerate(self.pools):
            pool.on_evict = partial(self._evicted, group)

    def attach(self, tier: Tier, arena: Arena, policy: WritePolicy | None = None) -> None:
        """Puts a tier below the device. arena: the bytes of the device blocks; policy: what is written to it.

        Raises ValueError without prefix caching: there would be nothing to keep.
        """
        if not self._prefix_caching:
            raise ValueError("a tier needs prefix caching")
        self._below = Traffic(tier, self.pools, self.groups, arena, policy or WritePolicy(), self._history)

    # -- a request's life -----------------------------------------------------------------------------------------------------

    def new_chain(self, salt: str = "") -> HashChain:
        """The identity of a new request's blocks. `salt` keeps them apart from everybody's who does not name the same salt."""
        return HashChain(root_hash(self.namespace, salt), salt)

    def admit(self, request_id: str, token_ids: Sequence[int], chain: HashChain) -> int:
        """Starts a request and takes the longest cached prefix of its tokens. Returns how many tokens need not be computed.

        At least one token is left to compute, since its logits are wanted.
        """
        if request_id in self._requests:
            raise ValueError(f"request {request_id!r} is admitted already")
        num_reused = 0
        if self._prefix_caching:
            chain.extend(token_ids)
            num_reused = longest_match(self.groups, chain.links[: reusable_blocks(len(token_ids))], self._on_device)
        state = BlockTables(chain, [[] for _ in self.groups], [0] * len(self.groups), num_reused)
        for group in range(len(self.groups)):
            self._take_prefix(state, group)
        self._requests[request_id] = state
        return num_reused * BLOCK_TOKENS

    def started(self, request_id: str, num_tokens: int) -> Reuse:
        """Ends the waiting of a request that was admitted and has room. To be called before its first step.

        Returns where its `num_tokens` tokens came from, and why no more of them could be reused.
        """
        if not self._prefix_caching:
            return explain_off(num_tokens)
        state = self._requests[request_id]
        self._met(state)
        self._offer(state)
        arrival = self._below.up.take(request_id) if self._below is not None else None
        return explain(num_tokens, state.num_sealed, state.chain, arrival, self._history)

    def has_room(self, num_tokens: int) -> bool:
        """Whether so many tokens more could be written now."""
        return self._has_free([-(-num_tokens // BLOCK_TOKENS)] * len(self.groups))

    def reserve(self, request_id: str, num_computed_tokens: int, num_tokens: int) -> bool:
        """Makes room for writing tokens num_computed_tokens .. num_tokens - 1. False, with no block taken, if there is none."""
        state = self._requests[request_id]
        for group in range(len(self.groups)):
            self._drop_behind_window(state, group, num_computed_tokens)
        wanted = -(-num_tokens // BLOCK_TOKENS)
        shared = [self._shared_tail(state, group, num_computed_tokens) for group in range(len(self.groups))]
        missing = [max(0, wanted - len(table)) + (tail is not None) for table, tail in zip(state.tables, shared, strict=True)]
        if not self._has_free(missing):
            return False
        for group, pool in enumerate(self.pools):
            table = state.tables[group]
            tail = shared[group]
            if tail is not None:
                table[-1] = self._copy_on_write(group, tail)
            table.extend(pool.allocate() for _ in range(wanted - len(table)))
        return True

    def seal(self, request_id: str, token_ids: Sequence[int], num_computed_tokens: int) -> None:
        """Makes the request's full blocks findable, prompt and generated alike. token_ids: at least the computed ones."""
        if not self._prefix_caching:
            return
        state = self._requests[request_id]
        full = num_computed_tokens // BLOCK_TOKENS
        if full <= state.num_sealed:
            return
        state.chain.extend(token_ids)
        for group, pool in enumerate(self.pools):
            table = state.tables[group]
            for index in range(state.num_sealed, full):
                block = table[index]
                if block is not None:
                    table[index] = self._seal(pool, block, state.chain, index)
        state.num_sealed = full
        self._offer(state)

    def fork(self, parent_id: str, child_id: str) -> None:
        """Starts a request that holds every block of another, the unfinished last one too."""
        if child_id in self._requests:
            raise ValueError(f"request {child_id!r} is admitted already")
        parent = self._requests[parent_id]
        for pool, table in zip(self.pools, parent.tables, strict=True):
            for block in table:
                if block is not None:
                    pool.hold(block)
        self._requests[child_id] = BlockTables(
            parent.chain.copy(),
            [list(table) for table in parent.tables],
            list(parent.first_kept),
            parent.num_sealed,
            parent.num_offered,
        )

    def release(self, request_id: str) -> None:
        """Ends a request (finished, cancelled or preempted). Its sealed blocks stay findable until their slots are needed."""
        state = self._requests.pop(request_id)
        for group, table in enumerate(state.tables):
            for block in reversed(table):  # the end of a prefix is worth less than its start: let it be evicted first
                if block is not None:
                    self._drop(group, block)

    # -- a request that waits -------------------------------------------------------------------------------------------------

    def look_up(self, request_id: str, token_ids: Sequence[int], chain: HashChain) -> None:
        """Asks the tier below, in the background, for the part of a request's prefix that the device lacks."""
        if self._below is None:
            return
        chain.extend(token_ids)
        num_blocks = reusable_blocks(len(token_ids))
        elsewhere = self._below.tier.elsewhere(chain.contents[0].tokens, chain.salt) if num_blocks else []
        self._below.up.look_up(request_id, chain, num_blocks, elsewhere)

    def is_looking(self, request_id: str) -> bool:
        """Whether the answer is still out."""
        return self._below is not None and self._below.up.is_looking(request_id)

    def start_load(self, request_id: str) -> bool:
        """Begins to load what was found and is worth it. False if there is nothing to wait for."""
        return self._below is not None and self._below.up.start(request_id)

    def is_loading(self, request_id: str) -> bool:
        """Whether blocks that the request waits for are on their way."""
        return self._below is not None and self._below.up.is_loading(request_id)

    def stop_waiting(self, request_id: str) -> None:
        """A waiting request is gone: what is done for it in the background is given up."""
        if self._below is not None:
            self._below.up.take(request_id)

    # -- what the runner needs ------------------------------------------------------------------------------------------------

    def block_table(self, request_id: str, group: int) -> list[int]:
        """Slots of the request's blocks in order; -1 where a block fell behind the window."""
        return [-1 if block is None else block.device.slot for block in self._requests[request_id].tables[group]]

    def take_copies(self) -> tuple[list[tuple[int, int]], ...]:
        """Per group the (source, destination) slots to copy before the next step writes anything. Asking empties the list."""
        taken = tuple([(source.device.slot, slot) for slot, source in copies.items()] for copies in self._copies)
        for pool, copies in zip(self.pools, self._copies, strict=True):
            for source in copies.values():
                pool.unpin(source)
            copies.clear()
        return taken

    # -- the whole cache ------------------------------------------------------------------------------------------------------

    @property
    def tier(self) -> Tier | None:
        """The tier below the device, if there is one."""
        return self._below.tier if self._below is not None else None

    def poll(self) -> None:
        """Takes in what was loaded and written in the background. To be called before each step."""
        if self._below is not None:
            self._below.poll()

    def wait(self, seconds: float) -> None:
        """Until something was loaded, at most so long: for when nothing else can be done."""
        if self._below is not None:
            self._below.tier.movers.wait(seconds)

    def set_busy(self, busy: bool) -> None:
        """Says whether requests are being computed; while none are, writing may take all it needs."""
        if self._below is not None:
            self._below.down.set_busy(busy)

    def computed(self, num_tokens: int, seconds: float) -> None:
        """Notes what computing prompt tokens costs, to be weighed against loading them."""
        if self._below is not None:
            self._below.up.cost.computed(num_tokens, seconds)

    def tier_counts(self) -> dict[str, float]:
        """What happened between the device and the tier below it; empty where there is none."""
        return self._below.counts() if self._below is not None else {}

    def close(self, seconds: float) -> None:
        """Writes what is still to be written, as far as `seconds` allow."""
        if self._below is not None:
            self._below.close(seconds)
            self._below = None

    def forget(self) -> int:
        """Drops what the device holds; running requests go on. Returns how many blocks were forgotten.

        What a tier below holds stays there: `Store.clear` removes it.
        """
        return sum(pool.forget() for pool in self.pools)

    def check_integrity(self) -> None:
        """Raises AssertionError unless tables, reference counts, free queues and indexes agree."""
        for group, pool in enumerate(self.pools):
            held = [block for state in self._requests.values() for block in state.tables[group] if block is not None]
            held += self._below.up.held(group) if self._below is not None else []
            pool.check_integrity(held)
            slots = {block.device.slot for block in held}
            assert set(self._copies[group]) <= slots, "a pending copy writes into a block nobody holds"
        for request_id, state in self._requests.items():
            assert len({len(table) for table in state.tables}) == 1, f"{request_id}: tables of unequal length"
            for table, first in zip(state.tables, state.first_kept, strict=True):
                assert all(block is None for block in table[:first]), f"{request_id}: a block behind the window is kept"
                assert all(block is not None for block in table[first:]), f"{request_id}: a block inside the window is missing"

    # -- parts ----------------------------------------------------------------------------------------------------------------

    def _on_device(self, group: int, link: BlockHash) -> bool:
        return self.pools[group].find(link) is not None

    def _has_free(self, wanted: Sequence[int]) -> bool:
        """Whether every group has so many free blocks, once writers have given back what they only wait for."""
        if all(number <= pool.num_free for number, pool in zip(wanted, self.pools, strict=True)):
            return True
        if self._below is not None:
            self._below.make_room()
        return all(number <= pool.num_free for number, pool in zip(wanted, self.pools, strict=True))

    def _seal(self, pool: BlockPool, block: KVBlock, chain: HashChain, index: int) -> KVBlock:
        sealed = pool.seal(block, chain.links[index], chain.contents[index])
        sealed.touches += 1
        self._history.met(chain.links[index], chain.contents[index])
        return sealed

    def _met(self, state: BlockTables) -> None:
        """Takes note that a request uses the blocks it found."""
        for group, table in enumerate(state.tables):
            found = [block for block in table[: state.num_sealed] if block is not None]
            for block in found:
                block.touches += 1
            if self._below is not None:
                self._below.down.touch(group, found)

    def _offer(self, state: BlockTables) -> None:
        """Puts the request's sealed blocks forward for writing, once there are enough of them to be worth it."""
        if self._below is None or state.num_sealed * BLOCK_TOKENS < self._below.down.policy.min_tokens:
            return
        for group, table in enumerate(state.tables):
            for block in table[state.num_offered : state.num_sealed]:
                if block is not None:
                    self._below.down.offer(group, block)
        state.num_offered = state.num_sealed

    def _evicted(self, group: int, block: KVBlock) -> None:
        assert block.block_hash is not None, "only sealed blocks are evicted"
        self._history.lost(block.block_hash, stored=block.stored)
        if self._below is not None:
            self._below.down.evicted(group, block)

    def _take_prefix(self, state: BlockTables, group: int) -> None:
        """Fills the group's table with the first `num_sealed` blocks, as far as its window reaches back."""
        pool, table = self.pools[group], state.tables[group]
        first = first_needed(self.groups[group], state.num_sealed)
        state.first_kept[group] = first
        table.extend([None] * first)
        for link in state.chain.links[first : state.num_sealed]:
            block = pool.find(link)
            assert block is not None, "the match found this block"
            pool.hold(block)
            table.append(block)

    def _drop_behind_window(self, state: BlockTables, group: int, num_computed_tokens: int) -> None:
        """Gives back the blocks that no row from num_computed_tokens on can see."""
        window = self.groups[group].window
        if window is None:
            return
        table = state.tables[group]
        first_visible = max(0, num_computed_tokens - window + 1)
        for index in range(state.first_kept[group], min(first_visible // BLOCK_TOKENS, len(table))):
            block = table[index]
            if block is not None:
                table[index] = None
                self._drop(group, block)
            state.first_kept[group] = index + 1

    def _shared_tail(self, state: BlockTables, group: int, num_computed_tokens: int) -> KVBlock | None:
        """The block the next token goes into, if it is begun and others hold it too."""
        if num_computed_tokens % BLOCK_TOKENS == 0:
            return None
        block = state.tables[group][num_computed_tokens // BLOCK_TOKENS]
        assert block is not None, "the block being written is always inside the window"
        return block if block.ref_count > 1 else None

    def _copy_on_write(self, group: int, block: KVBlock) -> KVBlock:
        own = self.pools[group].allocate()
        self._copies[group][own.device.slot] = block
        self.pools[group].pin(block)
        self._drop(group, block)
        return own

    def _drop(self, group: int, block: KVBlock) -> None:
        self.pools[group].drop(block)
        if block.ref_count == 0:
            source = self._copies[group].pop(block.device.slot, None)
            if source is not None:
                self.pools[group].unpin(source)
