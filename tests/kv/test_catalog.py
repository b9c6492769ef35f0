"""What a store holds, read from its objects."""

from collections.abc import Sequence

import pytest

from tests.support.objects import OTHER_SPACE, SMALL, SPACE, StoredBlock, flip_bit, make_chain, put_all
from tiercel.kv import namespace_id
from tiercel.kv.catalog import Chain, chains, read_headers, read_object, verify
from tiercel.kv.objects import ObjectError, ObjectHeader, object_bytes, payload_start
from tiercel.stores import Entry, Read, Result, Status
from tiercel.stores.memory import MemoryStore
from tiercel.types import BLOCK_TOKENS, KVLayout

HERE, THERE = namespace_id(SPACE), namespace_id(OTHER_SPACE)
PROMPT = [token % 1000 for token in range(5 * BLOCK_TOKENS)]
CHAIN = make_chain(PROMPT)
LONG = KVLayout(layers=tuple(range(300)), num_kv_heads=1, head_dim=1)  # its header fills more than one page


def store_of(*blocks: StoredBlock) -> MemoryStore:
    store = MemoryStore()
    put_all(store, blocks)
    return store


def damaged(block: StoredBlock, place: int) -> StoredBlock:
    return StoredBlock(block.key, flip_bit(block.data, place))


class Unwell(MemoryStore):
    """Lists everything, and answers reads with one status."""

    def __init__(self, status: Status) -> None:
        super().__init__()
        self.status = status

    def get(self, reads: Sequence[Read], deadline: float) -> list[Result]:
        return [Result(self.status, detail="the disk is on fire") for _ in reads]


# -- headers ------------------------------------------------------------------------------------------------------------------


def test_every_object_with_its_header() -> None:
    other = make_chain(PROMPT[: 2 * BLOCK_TOKENS], OTHER_SPACE, LONG)
    store = store_of(*CHAIN, *other)
    found = dict(read_headers(store))
    assert found.keys() == {Entry(block.key, len(block.data)) for block in (*CHAIN, *other)}
    for entry, header in found.items():
        assert isinstance(header, ObjectHeader)
        assert header.key == entry.key
    assert {entry.key for entry, _ in read_headers(store, THERE)} == {block.key for block in other}
    assert list(read_headers(store, "0" * 32)) == []


def test_bad_headers_are_told_and_the_others_read() -> None:
    short = StoredBlock(CHAIN[1].key, CHAIN[1].data[:-1])
    foreign = StoredBlock(CHAIN[2].key, CHAIN[3].data)
    empty = StoredBlock(CHAIN[3].key, b"")
    store = store_of(damaged(CHAIN[0], 40), short, foreign, empty, CHAIN[4])
    told = {entry.key: header for entry, header in read_headers(store)}
    reasons = [getattr(told[block.key], "reason", None) for block in CHAIN]
    assert reasons == ["corrupt", "corrupt", "foreign", "corrupt", None]


def test_payloads_are_not_read_for_headers() -> None:
    store = store_of(damaged(CHAIN[0], payload_start(SMALL)))
    assert [type(header) for _, header in read_headers(store)] == [ObjectHeader]


def test_what_is_gone_is_left_out() -> None:
    store = Unwell(Status.MISSING)
    put_all(store, CHAIN)
    assert list(read_headers(store)) == []
    assert (verify(store).objects, chains(store)) == (0, [])
    assert read_object(store, Entry(CHAIN[0].key, 10)) is None


def test_what_cannot_be_read_is_told() -> None:
    store = Unwell(Status.FAILED)
    put_all(store, CHAIN)
    assert {str(header) for _, header in read_headers(store)} == {"it cannot be read: the disk is on fire"}


# -- verify -------------------------------------------------------------------------------------------------------------------


def test_sound_objects() -> None:
    store, steps = store_of(*CHAIN), list[int]()
    checked = verify(store, progress=steps.append)
    assert (checked.objects, checked.bytes, checked.damaged, checked.removed) == (5, 5 * object_bytes(SMALL), (), 0)
    assert steps == [count * object_bytes(SMALL) for count in range(1, 6)]


@pytest.mark.parametrize("place", [20, 40, payload_start(SMALL), object_bytes(SMALL) - 1])
def test_damage_is_found_and_removed_only_on_request(place: int) -> None:
    store = store_of(*CHAIN[:2], damaged(CHAIN[2], place), *CHAIN[3:])
    checked = verify(store)
    assert [damage.entry.key for damage in checked.damaged] == [CHAIN[2].key]
    assert (checked.objects, checked.removed, store.usage().objects) == (5, 0, 5)
    repaired = verify(store, repair=True)
    assert (len(repaired.damaged), repaired.removed) == (1, 1)
    assert {entry.key for entry in store.list()} == {block.key for block in CHAIN} - {CHAIN[2].key}
    assert verify(store).damaged == ()


def test_one_namespace_alone() -> None:
    other = make_chain(PROMPT, OTHER_SPACE)
    store = store_of(*(damaged(block, 40) for block in (*CHAIN, *other)))
    assert verify(store, THERE, repair=True).removed == 5
    assert {entry.key.namespace for entry in store.list()} == {HERE}


def test_an_object_larger_than_any_is_not_read() -> None:
    with pytest.raises(ObjectError, match="more than any object"):
        read_object(store_of(*CHAIN), Entry(CHAIN[0].key, 1 << 50))


# -- chains -------------------------------------------------------------------------------------------------------------------


def chain_of(prompt: list[int], **changes: object) -> dict[str, object]:
    """What is expected of a chain that is one whole prompt."""
    blocks = make_chain(prompt)
    expected: dict[str, object] = {
        "namespace": HERE,
        "first_hash": blocks[0].key.block_hash,
        "first_position": 0,
        "first_tokens": tuple(prompt[:BLOCK_TOKENS]),
        "tokens": len(blocks) * BLOCK_TOKENS,
        "blocks": len(blocks),
        "ends": 1,
        "bytes": len(blocks) * object_bytes(SMALL),
    }
    return expected | changes


def test_a_prompt_is_a_chain() -> None:
    assert chains(store_of(*CHAIN)) == [Chain(**chain_of(PROMPT))]
    assert chains(store_of(*reversed(CHAIN))) == [Chain(**chain_of(PROMPT))]


def test_prompts_that_share_a_beginning_are_one_chain() -> None:
    fork = PROMPT[: 2 * BLOCK_TOKENS] + [7] * BLOCK_TOKENS
    other = [5] * (2 * BLOCK_TOKENS)
    store = store_of(*make_chain(fork), *make_chain(other), *CHAIN)
    expected = chain_of(PROMPT, blocks=6, ends=2, bytes=6 * object_bytes(SMALL))
    assert chains(store) == [Chain(**expected), Chain(**chain_of(other))]


def test_a_chain_without_its_beginning() -> None:
    [rest] = chains(store_of(*CHAIN[2:]))
    assert (rest.first_position, rest.tokens, rest.blocks) == (2 * BLOCK_TOKENS, 5 * BLOCK_TOKENS, 3)
    assert rest.first_tokens == tuple(PROMPT[2 * BLOCK_TOKENS : 3 * BLOCK_TOKENS])


def test_a_gap_parts_a_chain() -> None:
    found = chains(store_of(*CHAIN[:2], *CHAIN[3:]))
    assert [(chain.first_position, chain.tokens, chain.blocks) for chain in found] == [(192, 320, 2), (0, 128, 2)]


def test_groups_of_one_prompt_are_one_chain() -> None:
    [chain] = chains(store_of(*CHAIN, *make_chain(PROMPT, group=1)))
    assert chain == Chain(**chain_of(PROMPT, bytes=10 * object_bytes(SMALL)))


def test_namespaces_are_kept_apart() -> None:
    store = store_of(*CHAIN, *make_chain(PROMPT, OTHER_SPACE))
    assert sorted(chain.namespace for chain in chains(store)) == sorted([HERE, THERE])
    assert [chain.namespace for chain in chains(store, HERE)] == [HERE]


def test_what_is_damaged_belongs_to_no_chain() -> None:
    [chain] = chains(store_of(*CHAIN[:4], damaged(CHAIN[4], 40)))
    assert chain.blocks == 4


def test_a_long_chain() -> None:
    """Longer than a stack is deep."""
    prompt = list(range(1500 * BLOCK_TOKENS))
    assert [chain.blocks for chain in chains(store_of(*reversed(make_chain(prompt))))] == [1500]
