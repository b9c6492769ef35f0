"""The KV manager against what a reader can check by hand, and against brute force under random use."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tiercel.kv import KVCacheManager
from tiercel.models.null import null_groups
from tiercel.types import BLOCK_TOKENS, Namespace

B = BLOCK_TOKENS
NAMESPACE = Namespace(weights="w", network="r", numerics="n")


def make(num_blocks=16, windows=(None,), **settings):
    return KVCacheManager(null_groups(windows), num_blocks, NAMESPACE, **settings)


def run(manager, name, tokens, salt=""):
    """Admits a request and computes all its tokens. Returns how many were reused."""
    cached = manager.admit(name, tokens, manager.new_chain(salt))
    assert manager.reserve(name, cached, len(tokens))
    manager.seal(name, tokens, len(tokens))
    manager.check_integrity()
    return cached


def test_a_released_prefix_is_found_again_and_one_token_is_left_to_compute():
    manager = make()
    tokens = list(range(3 * B))
    assert run(manager, "a", tokens) == 0
    manager.release("a")
    assert run(manager, "b", tokens) == 2 * B
    assert run(manager, "c", [*tokens, 1]) == 3 * B
    assert run(manager, "d", [*tokens[: B + 5], 9, *tokens[B + 6 :]]) == B


def test_a_running_requests_blocks_are_shared_and_counted():
    manager = make()
    tokens = list(range(2 * B + 1))
    run(manager, "a", tokens)
    run(manager, "b", tokens)
    assert manager.block_table("a", 0)[:2] == manager.block_table("b", 0)[:2]
    assert manager.block_table("a", 0)[2] != manager.block_table("b", 0)[2]
    assert manager.pools[0].num_free == 16 - 4


def test_equal_blocks_computed_side_by_side_become_one():
    manager = make()
    tokens = list(range(2 * B))
    for name in "ab":
        assert manager.admit(name, tokens, manager.new_chain()) == 0
        assert manager.reserve(name, 0, len(tokens))
    manager.seal("a", tokens, len(tokens))
    manager.seal("b", tokens, len(tokens))
    manager.check_integrity()
    assert manager.block_table("a", 0) == manager.block_table("b", 0)
    assert manager.pools[0].num_free == 14


@pytest.mark.parametrize("field", ["weights", "network", "numerics", "tenant"])
def test_another_namespace_shares_nothing(field):
    chains = []
    for value in ("x", "y"):
        fields = {"weights": "w", "network": "r", "numerics": "n", "tenant": "t"} | {field: value}
        chain = KVCacheManager(null_groups(), 4, Namespace(**fields)).new_chain()
        chain.extend(range(B))
        chains.append(chain.links)
    assert chains[0] != chains[1]


def test_another_salt_shares_nothing():
    manager = make()
    tokens = list(range(2 * B))
    run(manager, "a", tokens, salt="alice")
    assert run(manager, "b", tokens, salt="bob") == 0
    assert run(manager, "c", tokens, salt="alice") == B


def test_namespace_fields_do_not_run_into_each_other():
    one = KVCacheManager(null_groups(), 4, Namespace(weights="ab", network="c", numerics="")).new_chain()
    two = KVCacheManager(null_groups(), 4, Namespace(weights="a", network="bc", numerics="")).new_chain()
    assert one.root != two.root


def test_least_recently_used_goes_first_and_ends_before_starts():
    manager = make(num_blocks=6)
    old, new = list(range(1000, 1000 + 3 * B)), list(range(2000, 2000 + 3 * B))
    for name, tokens in (("old", old), ("new", new)):
        run(manager, name, tokens)
        manager.release(name)
    run(manager, "x", list(range(B)))  # takes one slot: the last block of `old`
    manager.release("x")
    assert run(manager, "again", [*new, 5]) == 3 * B  # and one more slot: the middle block of `old`
    manager.release("again")
    assert run(manager, "old again", [*old, 5]) == B


def test_reserve_that_fails_changes_nothing():
    manager = make(num_blocks=3)
    run(manager, "a", list(range(2 * B)))
    assert manager.admit("b", list(range(500, 500 + 3 * B)), manager.new_chain()) == 0
    before = manager.block_table("b", 0), manager.pools[0].num_free
    assert not manager.reserve("b", 0, 3 * B)
    assert (manager.block_table("b", 0), manager.pools[0].num_free) == before
    assert manager.reserve("b", 0, B)
    manager.check_integrity()


def test_the_first_to_write_into_a_shared_block_gets_a_copy():
    manager = make()
    tokens = list(range(B + 10))
    run(manager, "a", tokens)
    manager.fork("a", "b")
    manager.fork("a", "c")
    shared = manager.block_table("a", 0)[1]
    assert manager.reserve("b", B + 10, B + 11)
    assert manager.reserve("a", B + 10, B + 11)
    assert manager.reserve("c", B + 10, B + 11)
    manager.check_integrity()
    last = [manager.block_table(name, 0)[1] for name in "abc"]
    assert len(set(last)) == 3
    assert last[2] == shared, "the last one to hold the block writes in place"
    assert sorted(manager.take_copies()[0]) == sorted([(shared, last[0]), (shared, last[1])])
    assert manager.take_copies() == ([],)


def test_a_forked_request_preempted_before_the_step_leaves_no_copy_behind():
    manager = make()
    run(manager, "a", list(range(B + 10)))
    manager.fork("a", "b")
    assert manager.reserve("b", B + 10, B + 11)
    manager.release("b")
    manager.check_integrity()
    assert manager.take_copies() == ([],)


def test_a_source_that_nobody_holds_any_more_is_not_given_away_before_it_is_copied():
    """A load into it would not wait for the step that copies."""
    manager = make(num_blocks=4)
    run(manager, "a", list(range(10)))
    manager.fork("a", "b")
    source = manager.block_table("a", 0)[0]
    assert manager.reserve("b", 10, 11)
    manager.release("a")
    manager.check_integrity()
    taken = [manager.pools[0].allocate().device.slot for _ in range(manager.pools[0].num_free)]
    assert len(taken) == 2
    assert source not in taken
    assert manager.take_copies() == ([(source, manager.block_table("b", 0)[0])],)
    assert manager.pools[0].allocate().device.slot == source


def test_blocks_behind_the_window_are_given_back_and_a_hit_needs_only_the_window():
    window = B + 2  # the first new row sees B + 1 tokens back: two blocks
    manager = make(num_blocks=12, windows=(None, window))
    tokens = list(range(5 * B + 1))
    run(manager, "a", tokens)
    assert manager.reserve("a", 5 * B + 1, 5 * B + 2)
    manager.check_integrity()
    assert manager.block_table("a", 0).count(-1) == 0
    assert manager.block_table("a", 1)[:4] == [-1, -1, -1, -1]  # the row at 5 B + 1 sees keys from 4 B on
    assert -1 not in manager.block_table("a", 1)[4:]
    manager.release("a")
    run(manager, "other", list(range(9000, 9000 + 5 * B)))
    manager.release("other")
    assert run(manager, "b", tokens) == 5 * B
    assert manager.block_table("b", 1)[:3] == [-1, -1, -1]  # the row at 5 B sees keys from 4 B - 1 on
    assert -1 not in manager.block_table("b", 1)[3:]


def test_a_windowed_group_without_its_window_is_no_hit():
    manager = make(num_blocks=12, windows=(None, B))
    tokens = list(range(4 * B + 1))
    run(manager, "a", tokens)
    manager.release("a")
    chain = manager.new_chain()
    chain.extend(tokens)
    del manager.pools[1]._sealed[chain.links[3]]
    assert manager.admit("b", tokens, chain) == 3 * B


def test_forget_makes_everything_unfindable_and_hurts_nobody():
    manager = make()
    tokens = list(range(3 * B))
    run(manager, "a", tokens)
    assert manager.forget() == 3
    manager.check_integrity()
    assert run(manager, "b", tokens) == 0
    manager.release("a")
    manager.release("b")
    manager.check_integrity()
    assert manager.pools[0].num_free == 16


def test_without_prefix_caching_nothing_is_reused():
    manager = make(prefix_caching=False)
    run(manager, "a", list(range(2 * B)))
    manager.release("a")
    assert run(manager, "b", list(range(2 * B))) == 0


def test_the_same_request_twice_is_refused():
    manager = make()
    run(manager, "a", [1])
    with pytest.raises(ValueError, match="admitted already"):
        manager.admit("a", [1], manager.new_chain())
    with pytest.raises(ValueError, match="admitted already"):
        manager.fork("a", "a")


@given(st.lists(st.integers(0, 2**31 - 1), max_size=4 * B), st.integers(0, 4 * B))
def test_a_chain_does_not_depend_on_how_it_grew(tokens, cut):
    whole, grown = make().new_chain(), make().new_chain()
    whole.extend(tokens)
    grown.extend(tokens[:cut])
    grown.extend(tokens)
    assert whole.links == grown.links
    assert len(whole.links) == len(tokens) // B


class RandomUse(RuleBasedStateMachine):
    """Admits, computes, forks and releases at random. A brute-force model knows every token in every slot.

    Writing is modelled by storing (request's token at that position) in the slot; whatever a table shows must then be the
    request's own tokens, whoever wrote them.
    """

    @initialize(
        num_blocks=st.integers(4, 12), windows=st.sampled_from([(None,), (None, 2), (None, B + 1), (100,), (3, None, 200)])
    )
    def start(self, num_blocks, windows):
        self.windows = windows
        self.manager = make(num_blocks, windows)
        self.capacity = num_blocks * B
        self.slots = [{} for _ in windows]  # per group: slot -> tokens by offset
        self.requests = {}  # name -> [tokens, computed]
        self.count = 0

    @rule(seed=st.integers(0, 2), length=st.integers(1, 5 * B), branch=st.integers(0, 5 * B))
    def arrive(self, seed, length, branch):
        self.admit(seed, length, branch)

    def admit(self, seed, length, branch):
        length = min(length, self.capacity)
        tokens = [seed * 1000 + i if i < branch else 7000 + i for i in range(length)]
        name = f"r{self.count}"
        self.count += 1
        computed = self.manager.admit(name, tokens, self.manager.new_chain())
        assert computed % B == 0
        assert computed < length
        self.requests[name] = [tokens, computed]

    def any_request(self, data):
        """One of the running requests; a new one where none runs."""
        if not self.requests:
            self.admit(seed=0, length=data.draw(st.integers(1, 5 * B)), branch=2 * B)
        return data.draw(st.sampled_from(sorted(self.requests)))

    @rule(data=st.data(), extra=st.integers(0, 90))
    def compute(self, data, extra):
        name = self.any_request(data)
        tokens, computed = self.requests[name]
        if computed == len(tokens):
            tokens.append(len(tokens) * 3 + hash(name) % 50)
        end = min(len(tokens), computed + 1 + extra)
        if len(tokens) > self.capacity or not self.manager.reserve(name, computed, end):
            return
        for group, copies in enumerate(self.manager.take_copies()):
            read = {destination: dict(self.slots[group][source]) for source, destination in copies}
            self.slots[group].update(read)
        for group in range(len(self.windows)):
            table = self.manager.block_table(name, group)
            for position in range(computed, end):
                self.slots[group].setdefault(table[position // B], {})[position % B] = tokens[position]
        self.requests[name][1] = end
        self.manager.seal(name, tokens, end)

    @rule(data=st.data())
    def fork(self, data):
        name = self.any_request(data)
        tokens, computed = self.requests[name]
        if computed < len(tokens):
            return
        child = f"r{self.count}"
        self.count += 1
        self.manager.fork(name, child)
        self.requests[child] = [list(tokens), computed]

    @rule(data=st.data())
    def release(self, data):
        name = self.any_request(data)
        self.manager.release(name)
        del self.requests[name]

    @rule()
    def forget(self):
        self.manager.forget()

    @invariant()
    def every_row_reads_its_own_tokens(self):
        if not hasattr(self, "manager"):
            return
        self.manager.check_integrity()
        for name, (tokens, computed) in self.requests.items():
            for group, window in enumerate(self.windows):
                table = self.manager.block_table(name, group)
                first = 0 if window is None else max(0, computed - window + 1)
                for position in range(first, computed):
                    assert self.slots[group][table[position // B]][position % B] == tokens[position]

    def teardown(self):
        if hasattr(self, "manager"):
            for name in self.requests:
                self.manager.release(name)
            self.manager.check_integrity()
            assert all(pool.num_free == pool.num_blocks for pool in self.manager.pools)


TestRandomUse = RandomUse.TestCase
TestRandomUse.settings = settings(max_examples=100, stateful_step_count=50)
