"""The room where requests and blocks meet: which blocks a request reads and writes, and what it can reuse."""

from collections.abc import Sequence
from dataclasses import dataclass

from tiercel.kv.block import KVBlock
from tiercel.kv.hashing import HashChain, root_hash
from tiercel.kv.pool import BlockPool
from tiercel.types import BLOCK_TOKENS, BlockHash, KVGroup, Namespace


@dataclass(eq=False)
class BlockTables:
    """The blocks of one request: per group a table of blocks, None where a block fell behind the window.

    num_sealed: leading blocks that were sealed; first_kept: per group, the number of leading None entries.
    """

    chain: HashChain
    tables: list[list[KVBlock | None]]
    first_kept: list[int]
    num_sealed: int = 0


class KVCacheManager:
    """Owns the device blocks of every group and the tables of the requests that use them.

    A request goes through: `admit` (takes what can be reused) -> `reserve` before each step -> `seal` after it -> `release`.
    `fork` lets a second sample start from the same blocks; the first of them to write into a shared block gets a copy of it.
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
        self._copies: list[dict[int, int]] = [{} for _ in groups]  # per group: destination slot -> source slot

    # -- a request's life -----------------------------------------------------------------------------------------------------

    def new_chain(self, salt: str = "") -> HashChain:
        """The identity of a new request's blocks. `salt` keeps them apart from everybody's who does not name the same salt."""
        return HashChain(root_hash(self.namespace, salt))

    def admit(self, request_id: str, token_ids: Sequence[int], chain: HashChain) -> int:
        """Starts a request and takes the longest cached prefix of its tokens. Returns how many tokens need not be computed.

        At least one token is left to compute, since its logits are wanted.
        """
        if request_id in self._requests:
            raise ValueError(f"request {request_id!r} is admitted already")
        state = BlockTables(chain, [[] for _ in self.groups], [0] * len(self.groups))
        if self._prefix_caching:
            chain.extend(token_ids)
            state.num_sealed = self._longest_match(chain.links[: (len(token_ids) - 1) // BLOCK_TOKENS])
            for group in range(len(self.groups)):
                self._take_prefix(state, group)
        self._requests[request_id] = state
        return state.num_sealed * BLOCK_TOKENS

    def reserve(self, request_id: str, num_computed_tokens: int, num_tokens: int) -> bool:
        """Makes room for writing tokens num_computed_tokens .. num_tokens - 1. False, with no block taken, if there is none."""
        state = self._requests[request_id]
        for group in range(len(self.groups)):
            self._drop_behind_window(state, group, num_computed_tokens)
        wanted = -(-num_tokens // BLOCK_TOKENS)
        shared = [self._shared_tail(state, group, num_computed_tokens) for group in range(len(self.groups))]
        for group, pool in enumerate(self.pools):
            missing = max(0, wanted - len(state.tables[group])) + (shared[group] is not None)
            if missing > pool.num_free:
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
                    table[index] = pool.seal(block, state.chain.links[index], state.chain.parent(index))
        state.num_sealed = full

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
            parent.chain.copy(), [list(table) for table in parent.tables], list(parent.first_kept), parent.num_sealed
        )

    def release(self, request_id: str) -> None:
        """Ends a request (finished, cancelled or preempted). Its sealed blocks stay findable until their slots are needed."""
        state = self._requests.pop(request_id)
        for group, table in enumerate(state.tables):
            for block in reversed(table):  # the end of a prefix is worth less than its start: let it be evicted first
                if block is not None:
                    self._drop(group, block)

    # -- what the runner needs ------------------------------------------------------------------------------------------------

    def block_table(self, request_id: str, group: int) -> list[int]:
        """Slots of the request's blocks in order; -1 where a block fell behind the window."""
        return [-1 if block is None else block.device.slot for block in self._requests[request_id].tables[group]]

    def take_copies(self) -> tuple[list[tuple[int, int]], ...]:
        """Per group the (source, destination) slots to copy before the next step writes anything. Asking empties the list."""
        taken = tuple([(source, destination) for destination, source in copies.items()] for copies in self._copies)
        for copies in self._copies:
            copies.clear()
        return taken

    # -- the whole cache ------------------------------------------------------------------------------------------------------

    @property
    def num_free_blocks(self) -> int:
        """Blocks that can be allocated, in the group that has fewest."""
        return min(pool.num_free for pool in self.pools)

    def forget(self) -> int:
        """Drops all cached content; running requests go on. Returns how many blocks were forgotten."""
        return sum(pool.forget() for pool in self.pools)

    def check_integrity(self) -> None:
        """Raises AssertionError unless tables, reference counts, free queues and indexes agree."""
        for group, pool in enumerate(self.pools):
            held = [block for state in self._requests.values() for block in state.tables[group] if block is not None]
            pool.check_integrity(held)
            slots = {block.device.slot for block in held}
            assert set(self._copies[group]) <= slots, "a pending copy writes into a block nobody holds"
        for request_id, state in self._requests.items():
            assert len({len(table) for table in state.tables}) == 1, f"{request_id}: tables of unequal length"
            for table, first in zip(state.tables, state.first_kept, strict=True):
                assert all(block is None for block in table[:first]), f"{request_id}: a block behind the window is kept"
                assert all(block is not None for block in table[first:]), f"{request_id}: a block inside the window is missing"

    # -- parts ----------------------------------------------------------------------------------------------------------------

    def _longest_match(self, links: Sequence[BlockHash]) -> int:
        """Most blocks n such that every group holds what a row at position n * BLOCK_TOKENS can see."""
        limit = len(links)
        windowed = []
        for group, pool in zip(self.groups, self.pools, strict=True):
            if group.window is None:
                limit = next((i for i in range(limit) if pool.find(links[i]) is None), limit)
            else:
                windowed.append((pool, _window_blocks(group.window)))
        if not windowed:
            return limit
        best = 0
        runs = [0] * len(windowed)  # consecutive blocks found, up to the one looked at
        for index in range(limit):
            runs = [0 if pool.find(links[index]) is None else run + 1 for run, (pool, _) in zip(runs, windowed, strict=True)]
            if all(run >= min(index + 1, needed) for run, (_, needed) in zip(runs, windowed, strict=True)):
                best = index + 1
        return best

    def _take_prefix(self, state: BlockTables, group: int) -> None:
        """Fills the group's table with the first `num_sealed` blocks, as far as its window reaches back."""
        window = self.groups[group].window
        pool, table = self.pools[group], state.tables[group]
        first = 0 if window is None else max(0, state.num_sealed - _window_blocks(window))
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
        self._copies[group][own.device.slot] = block.device.slot
        self._drop(group, block)
        return own

    def _drop(self, group: int, block: KVBlock) -> None:
        self.pools[group].drop(block)
        if block.ref_count == 0:
            self._copies[group].pop(block.device.slot, None)


def _window_blocks(window: int) -> int:
    """Blocks before a block boundary that hold the window of the first token after it."""
    return -(-(window - 1) // BLOCK_TOKENS)
