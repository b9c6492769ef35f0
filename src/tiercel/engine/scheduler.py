"""Who computes how many tokens in the next step."""

from bisect import insort
from dataclasses import dataclass, field

from tiercel.engine.request import Request
from tiercel.kv import KVCacheManager


@dataclass
class SchedulerOutput:
    """What one step computes; prefill, chunk and decode look alike.

    budget: tokens that may still be given away; num_tokens: tokens of each request, in the order of its rows.
    """

    budget: int
    num_tokens: dict[Request, int] = field(default_factory=dict)

    def grant(self, request: Request, num_tokens: int) -> None:
        self.num_tokens[request] = num_tokens
        self.budget -= num_tokens

    def revoke(self, request: Request) -> None:
        self.budget += self.num_tokens.pop(request, 0)


class Scheduler:
    """Continuous batching under one token budget.

    Knows tokens, not phases: each step, running requests get the tokens they miss (those that miss one token first, so that a
    long prompt never stalls the others), then waiting requests are admitted while budget, places and blocks last. When blocks
    run out, the running request of the lowest rank is preempted: it waits again and later recomputes what the cache lost.
    A request whose prefix lies in a tier below is set aside while it is loaded; others are admitted meanwhile.
    """

    def __init__(self, manager: KVCacheManager, *, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        self.running: list[Request] = []  # all lists are sorted by rank
        self.waiting: list[Request] = []
        self.loading: list[Request] = []
        self.num_preemptions = 0
        self.num_query_tokens = 0  # prompt tokens of requests admitted, and how many of them were found in the cache
        self.num_hit_tokens = 0
        self.num_stored_tokens = 0  # of the hits, those that were loaded from a tier below
        self._manager = manager
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens

    def add(self, request: Request) -> None:
        insort(self.waiting, request, key=_rank)
        self._manager.look_up(request.key, request.token_ids, request.chain)

    def add_running(self, request: Request) -> None:
        """A sample that forked off a running one; its blocks are held already."""
        insort(self.running, request, key=_rank)

    def remove(self, request: Request) -> None:
        """Ends a request, wherever it is."""
        if request in self.running:
            self.running.remove(request)
            self._manager.release(request.key)
        for waiting in (self.waiting, self.loading):
            if request in waiting:
                waiting.remove(request)
                self._manager.stop_waiting(request.key)

    def schedule(self) -> SchedulerOutput:
        """Plans one step and reserves the blocks it writes."""
        output = SchedulerOutput(self._max_num_batched_tokens)
        self._return_loaded()
        preempted = self._schedule_running(output)
        if not preempted:
            self._admit_waiting(output)
        return output

    def check_integrity(self) -> None:
        """Raises AssertionError unless the lists are sorted and no request is in two of them."""
        lists = self.running, self.waiting, self.loading
        for requests in lists:
            assert requests == sorted(requests, key=_rank), "a list is out of order"
        assert len({request for requests in lists for request in requests}) == sum(map(len, lists)), "a request is in two lists"
        assert all(r.num_missing_tokens > 0 for r in self.running), "a running request has nothing to compute"

    # -- parts ----------------------------------------------------------------------------------------------------------------

    def _schedule_running(self, output: SchedulerOutput) -> bool:
        """Gives running requests their tokens. Returns whether any had to be preempted."""
        before = self.num_preemptions
        for request in sorted(self.running, key=lambda r: (r.num_missing_tokens > 1, _rank(r))):
            if output.budget == 0:
                break
            if self.num_preemptions > before and request not in self.running:  # preempted for the sake of an earlier one
                continue
            num_tokens = min(request.num_missing_tokens, output.budget)
            if self._reserve(request, num_tokens, output):
                output.grant(request, num_tokens)
        return self.num_preemptions > before

    def _reserve(self, request: Request, num_tokens: int, output: SchedulerOutput) -> bool:
        """Reserves blocks, preempting from the lowest rank up. False if the request itself had to go."""
        while not self._manager.reserve(request.key, request.num_computed_tokens, request.num_computed_tokens + num_tokens):
            victim = self.running[-1]
            self._preempt(victim, output)
            if victim is request:
                return False
        return True

    def _preempt(self, victim: Request, output: SchedulerOutput) -> None:
        self.running.remove(victim)
        self._manager.release(victim.key)
        output.revoke(victim)
        victim.num_computed_tokens = 0
        self.num_preemptions += 1
        self.add(victim)

    def _return_loaded(self) -> None:
        """Requests whose blocks have come, or will not, take their place among those that wait again."""
        for request in [r for r in self.loading if not self._manager.is_loading(r.key)]:
            self.loading.remove(request)
            insort(self.waiting, request, key=_rank)

    def _admit_waiting(self, output: SchedulerOutput) -> None:
        while output.budget > 0:
            request = next((r for r in self.waiting if not self._manager.is_looking(r.key)), None)
            if request is None:
                return
            if not self._admit(request, output):
                lowest = self.running[-1] if self.running else None
                if lowest is None or lowest.priority <= request.priority:
                    return
                self._preempt(lowest, output)

    def _admit(self, request: Request, output: SchedulerOutput) -> bool:
        """Moves a waiting request on, if there is a place for all its samples and room for its tokens.

        To `loading` if some of its prefix must be brought first, else to `running`.
        """
        places_taken = sum(1 + len(r.siblings) for r in (*self.running, *self.loading))
        if places_taken + 1 + len(request.siblings) > self._max_num_seqs:
            return False
        if self._manager.start_load(request.key):
            self.waiting.remove(request)
            insort(self.loading, request, key=_rank)
            return True
        cached = self._manager.admit(request.key, request.token_ids, request.chain)
        num_tokens = min(request.num_tokens - cached, output.budget)
        # Room for all known tokens is asked for although only a chunk is taken now: else prompts preempt each other half way.
        fits = not self.running or self._manager.has_room(request.num_tokens - cached)
        if not fits or not self._manager.reserve(request.key, cached, cached + num_tokens):
            self._manager.release(request.key)
            return False
        self.waiting.remove(request)
        insort(self.running, request, key=_rank)
        request.num_computed_tokens = cached
        reuse = self._manager.started(request.key, request.num_tokens)
        if request.reuse is None:
            request.reuse = reuse
            self.num_query_tokens += request.num_tokens
            self.num_hit_tokens += cached
            self.num_stored_tokens += request.reuse.stored_tokens
        output.grant(request, num_tokens)
        return True


def _rank(request: Request) -> tuple[int, int, int]:
    return (request.priority, request.arrival, request.index)
