"""Brings blocks up from a tier for requests that wait: look-up, load into device slots, and what became of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from time import monotonic
from typing import Literal

from tiercel.kv.arena import Arena
from tiercel.kv.block import BlockContent, KVBlock
from tiercel.kv.cost import LoadCost
from tiercel.kv.hashing import HashChain
from tiercel.kv.history import History
from tiercel.kv.match import first_needed, longest_match
from tiercel.kv.movers import Job, State
from tiercel.kv.pool import BlockPool
from tiercel.kv.tier import Tier
from tiercel.kv.transfer import Incoming, LoadChunk, LookUp
from tiercel.telemetry import get_logger
from tiercel.types import BLOCK_TOKENS, BlockHash, BlockKey, KVGroup, MissReason

log = get_logger("tiercel.kv")

_LOOK_UP_SECONDS = 1.0  # then what the store has not found yet counts as not there
_ANSWER_SECONDS = 1.0  # more, for that answer to come; then the store counts as empty
_LOAD_SECONDS = 30.0  # for a load whose recomputation was not measured yet
_LEAST_LOAD_SECONDS = 1.0
_CHUNK_BLOCKS = 4  # blocks in one call to the store; of a store that hangs, so many slots per reader are tied up

Wanted = tuple[int, BlockHash]  # (group, block)


class Phase(Enum):
    """Where a waiting request stands with the tier."""

    LOOKING = "looking"
    FOUND = "found"  # the answer is there; nothing was loaded yet
    LOADING = "loading"  # its blocks are on their way, for itself or for another request
    OVER = "over"  # loaded, missed or given up: it is admitted with what the device has


@dataclass(eq=False)
class Arrival:
    """One waiting request. loaded_from: blocks that the device had when a load began for it; missed, detail: why no more came;
    elsewhere: how the namespace differs that holds its first block.
    """

    links: Sequence[BlockHash]
    chain: HashChain
    phase: Phase = Phase.OVER
    look_up: LookUp | None = None
    answer_by: float = 0.0
    found: set[BlockKey] = field(default_factory=set)
    awaited: set[Wanted] = field(default_factory=set)  # blocks that other requests load
    awaited_until: float = 0.0
    loaded_from: int | None = None
    missed: MissReason | None = None
    detail: str = ""
    elsewhere: str | None = None


@dataclass(eq=False)
class Load:
    """Blocks of one arrival that are being read. held: what to give back at the end, the prefix's start first."""

    arrival: Arrival
    chunks: list[LoadChunk]
    held: dict[Wanted, KVBlock]
    num_bytes: int
    started: float
    deadline: float
    bytes_read: int = 0


class Retrieval:
    """Requests go through `look_up`, then `start` once it is their turn, until `is_loading` is False; `take` ends it.

    Blocks are read straight into device slots that the load holds; each is sealed, and so findable, when all its bytes have
    passed their checks. A load that is given up leaves its slots alone until the read that fills them has returned.
    """

    def __init__(
        self,
        tier: Tier,
        pools: Sequence[BlockPool],
        groups: Sequence[KVGroup],
        arena: Arena,
        make_room: Callable[[], None],
        history: History,
    ) -> None:
        self.cost = LoadCost()
        self.corrupt: list[BlockKey] = []  # objects to be removed
        self._tier = tier
        self._pools = pools
        self._groups = groups
        self._arena = arena
        self._make_room = make_room
        self._history = history
        self._arrivals: dict[str, Arrival] = {}
        self._look_ups: dict[LookUp, Arrival] = {}
        self._loads: list[Load] = []
        self._in_flight: dict[Wanted, Load] = {}

    @property
    def num_loading(self) -> int:
        return len(self._loads)

    def held(self, group: int) -> list[KVBlock]:
        """One entry per reference that loads hold in a group."""
        return [block for load in self._loads for (index, _), block in load.held.items() if index == group]

    # -- a request's way ------------------------------------------------------------------------------------------------------

    def look_up(self, request_id: str, chain: HashChain, num_blocks: int, elsewhere: Sequence[BlockKey]) -> None:
        """Asks what the tier holds of a request's first `num_blocks` blocks."""
        arrival = Arrival(chain.links[:num_blocks], chain)
        self._arrivals[request_id] = arrival
        keys = [
            self._tier.key(group, link)
            for group, pool in enumerate(self._pools)
            for link in arrival.links
            if pool.find(link) is None
        ]
        if not keys:
            return
        if self._tier.reading.is_open:
            arrival.missed, arrival.detail = "store_failed", "the store failed a moment ago and is left alone"
            return
        arrival.phase = Phase.LOOKING
        arrival.look_up = LookUp(self._tier.store, keys, elsewhere, _LOOK_UP_SECONDS)
        arrival.answer_by = monotonic() + _LOOK_UP_SECONDS + _ANSWER_SECONDS
        self._look_ups[arrival.look_up] = arrival
        self._tier.counts["look_ups"] += 1
        self._tier.movers.submit(arrival.look_up)

    def is_looking(self, request_id: str) -> bool:
        """Whether the tier has not answered yet."""
        arrival = self._arrivals.get(request_id)
        return arrival is not None and arrival.phase is Phase.LOOKING

    def is_loading(self, request_id: str) -> bool:
        """Whether blocks are on their way that the request waits for."""
        arrival = self._arrivals.get(request_id)
        if arrival is None or arrival.phase is not Phase.LOADING:
            return False
        if arrival.awaited and arrival.awaited.isdisjoint(self._in_flight):
            arrival.awaited.clear()
            arrival.phase = Phase.FOUND
        return arrival.phase is Phase.LOADING

    def start(self, request_id: str) -> bool:
        """It is the request's turn: loads what the device lacks and the tier has. False if there is nothing to wait for."""
        arrival = self._arrivals.get(request_id)
        if arrival is None or arrival.phase is not Phase.FOUND:
            return False
        here = longest_match(self._groups, arrival.links, self._on_device)
        whole = longest_match(self._groups, arrival.links, lambda group, link: self._reachable(arrival, group, link))
        if whole <= here:
            arrival.phase = Phase.OVER
            return False
        wanted = [
            (group, link)
            for group, spec in enumerate(self._groups)
            for link in arrival.links[first_needed(spec, whole) : whole]
        ]
        arrival.awaited = {each for each in wanted if each in self._in_flight}
        if arrival.awaited:
            arrival.awaited_until = max(self._in_flight[each].deadline for each in arrival.awaited)
            arrival.phase = Phase.LOADING
            return True
        return self._start_load(arrival, wanted, here, whole)

    def take(self, request_id: str) -> Arrival | None:
        """Ends a request's waiting, because it is admitted or gone. A load of its own is given up."""
        arrival = self._arrivals.pop(request_id, None)
        if arrival is not None:
            if arrival.look_up is not None and arrival.look_up.cancel():
                self._look_ups.pop(arrival.look_up, None)
            for load in [load for load in self._loads if load.arrival is arrival]:
                self._give_up(load)
        return arrival

    # -- the tier's answers ---------------------------------------------------------------------------------------------------

    def ended(self, job: Job) -> None:
        """Takes in a look-up or a part of a load that is done."""
        if isinstance(job, LookUp):
            self._take_look_up(job)
        elif isinstance(job, LoadChunk):
            self._take_chunk(job)

    def check_deadlines(self) -> None:
        """Turns what is late into misses."""
        now = monotonic()
        for arrival in self._arrivals.values():
            look_up = arrival.look_up
            if arrival.phase is Phase.LOOKING and look_up is not None and now > arrival.answer_by:
                look_up.cancel()
                del self._look_ups[look_up]
                arrival.phase = Phase.OVER
                arrival.missed, arrival.detail = "timed_out", "the store did not answer in time"
                self._tier.failed(self._tier.reading, "look_up", arrival.detail)
            elif arrival.phase is Phase.LOADING and arrival.awaited and now > arrival.awaited_until:
                self._miss(arrival, "timed_out", "another request's load of the same blocks took too long")
        for load in [load for load in self._loads if now > load.deadline]:
            if load.arrival.phase is Phase.LOADING:
                self._miss(load.arrival, "timed_out", "the store took longer than computing would")
                self._tier.counts["loads_timed_out"] += 1
                self.cost.loaded(load.num_bytes, now - load.started)  # it would have taken even longer
                self._tier.failed(self._tier.reading, "load", load.arrival.detail)
                self._give_up(load)

    # -- parts ----------------------------------------------------------------------------------------------------------------

    def _on_device(self, group: int, link: BlockHash) -> bool:
        return self._pools[group].find(link) is not None

    def _reachable(self, arrival: Arrival, group: int, link: BlockHash) -> bool:
        return self._on_device(group, link) or (group, link) in self._in_flight or self._tier.key(group, link) in arrival.found

    def _start_load(self, arrival: Arrival, wanted: Sequence[Wanted], here: int, whole: int) -> bool:
        """here, whole: blocks of the prefix that the device has, and that it will have."""
        missing = [each for each in wanted if not self._on_device(*each)]
        num_bytes = sum(self._groups[group].layout.block_bytes for group, _ in missing)
        num_tokens = (whole - here) * BLOCK_TOKENS
        if not self.cost.worth_loading(num_bytes, num_tokens):
            return self._miss(arrival, "slower_to_load", f"computing {num_tokens} tokens takes less time")
        if not self._has_room(wanted):
            self._make_room()
        if not self._has_room(wanted):  # computing them takes no fewer slots: the request has to wait, and is asked for again
            return False
        now = monotonic()
        patience = self.cost.recompute_seconds(2 * num_tokens)
        seconds = _LOAD_SECONDS if patience is None else max(_LEAST_LOAD_SECONDS, patience)
        load = Load(arrival, [], {}, num_bytes, now, now + seconds)
        for group, link in wanted:  # what is there already must stay until the rest has come
            block = self._pools[group].find(link)
            if block is not None:
                self._pools[group].hold(block)
                load.held[group, link] = block
        numbers = {link: number for number, link in enumerate(arrival.links)}
        items = [self._incoming(load, group, link, arrival.chain.contents[numbers[link]]) for group, link in missing]
        for group in range(len(self._groups)):
            own = [item for item in items if item.key.group == group]
            load.chunks += [
                LoadChunk(self._tier.store, own[start : start + _CHUNK_BLOCKS], load.deadline)
                for start in range(0, len(own), _CHUNK_BLOCKS)
            ]
        self._loads.append(load)
        arrival.loaded_from = here
        arrival.phase = Phase.LOADING
        for chunk in load.chunks:
            self._tier.movers.submit(chunk)
        return True

    def _has_room(self, wanted: Sequence[Wanted]) -> bool:
        """Whether every block can be held at once: those to load take free slots, those on the device leave the free queue."""
        for group, pool in enumerate(self._pools):
            blocks = [pool.find(link) for index, link in wanted if index == group]
            taken = sum(block is None or (block.ref_count == 0 and not block.pins) for block in blocks)
            if taken > pool.num_free:
                return False
        return True

    def _incoming(self, load: Load, group: int, link: BlockHash, content: BlockContent) -> Incoming:
        block = self._pools[group].allocate()
        load.held[group, link] = block
        self._in_flight[group, link] = load
        layout = self._groups[group].layout
        return Incoming(self._tier.key(group, link), block, content, layout, self._arena.block(group, block.device.slot))

    def _take_look_up(self, job: LookUp) -> None:
        if job.failed or (job.late and not job.found):
            self._tier.failed(self._tier.reading, "look_up", job.failed or "the store did not answer in time")
        arrival = self._look_ups.pop(job, None)
        if arrival is None or arrival.phase is not Phase.LOOKING:  # given up meanwhile
            return
        arrival.phase = Phase.FOUND if job.found else Phase.OVER
        arrival.found = job.found
        arrival.elsewhere = self._tier.difference(job.found_elsewhere) if job.found_elsewhere is not None else None
        if job.failed:
            arrival.missed, arrival.detail = "store_failed", job.failed
        elif job.late:  # for the part that was not reached; what was found is loaded all the same
            arrival.missed, arrival.detail = "timed_out", "the store did not answer in time"
        elif not job.found:  # else the load will tell how well the store is
            self._tier.reading.succeeded()

    def _take_chunk(self, chunk: LoadChunk) -> None:
        load = self._in_flight[chunk.items[0].key.group, chunk.items[0].key.block_hash]
        load.bytes_read += chunk.bytes_read
        self._tier.counts["bytes_loaded"] += chunk.bytes_read
        for item in chunk.items:
            if item.missed is None:
                self._seal(load, item)
            else:
                self._count_miss(load, item)
                self._drop(load, item)
        self._settled(load, chunk)

    def _seal(self, load: Load, item: Incoming) -> None:
        group, link = item.key.group, item.key.block_hash
        block = self._pools[group].seal(item.block, link, item.content)
        block.stored = True
        self._history.met(link, item.content)
        load.held[group, link] = block
        del self._in_flight[group, link]
        self._tier.counts["blocks_loaded"] += 1
        if load.arrival.phase is Phase.LOADING:  # else it comes too late to be a success
            self._tier.reading.succeeded()

    def _drop(self, load: Load, item: Incoming) -> None:
        wanted = item.key.group, item.key.block_hash
        self._pools[item.key.group].drop(load.held.pop(wanted))
        del self._in_flight[wanted]

    def _count_miss(self, load: Load, item: Incoming) -> None:
        assert item.missed is not None, "only missed items are counted"
        self._tier.counts[f"loads_{item.missed}"] += 1
        if load.arrival.missed is None:
            load.arrival.missed, load.arrival.detail = item.missed, item.detail
        if item.missed == "corrupt":
            self.corrupt.append(item.key)
            log.warning("a stored block is corrupt; it is computed anew", key=item.key.block_hash.hex(), reason=item.detail)
        elif item.missed != "evicted":
            self._tier.failed(self._tier.reading, "load", item.detail)

    def _settled(self, load: Load, chunk: LoadChunk) -> None:
        """A chunk holds nothing any more; after the last one the load gives back its references, the prefix's end first."""
        load.chunks.remove(chunk)
        if load.chunks:
            return
        for (group, _), block in reversed(load.held.items()):
            self._pools[group].drop(block)
        self._loads.remove(load)
        if load.arrival.phase is Phase.LOADING:
            load.arrival.phase = Phase.OVER
            self.cost.loaded(load.bytes_read, monotonic() - load.started)

    def _give_up(self, load: Load) -> None:
        """Cancels what has not begun. What is being read keeps its slots until the store returns."""
        load.arrival.phase = Phase.OVER
        for chunk in list(load.chunks):
            if chunk.cancel() and chunk.state is State.CANCELLED:
                for item in chunk.items:
                    self._drop(load, item)
                self._settled(load, chunk)

    def _miss(self, arrival: Arrival, reason: MissReason, detail: str) -> Literal[False]:
        arrival.phase = Phase.OVER
        arrival.missed, arrival.detail = reason, detail
        return False
