"""The stored form of a block: what is written is read, and nothing else is taken for it."""

import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tests.support.objects import SMALL, SPACE, a_hash, flip_bit, make_chain, make_object, random_payload
from tiercel.kv import block_hash, namespace_id
from tiercel.kv.block import BlockContent
from tiercel.kv.objects import (
    ALIGNMENT,
    PREFIX_BYTES,
    Frame,
    ObjectError,
    ObjectHeader,
    check_frame,
    check_identity,
    check_object,
    decode_header,
    encode_header,
    frame_bytes,
    header_end,
    object_bytes,
    payload_start,
    token_bytes,
)
from tiercel.types import BLOCK_TOKENS, FORMAT_VERSION, BlockKey, KVLayout

TOKENS = list(range(100, 100 + BLOCK_TOKENS))
KEY, WHOLE = make_chain(TOKENS)[0]
HEADER = decode_header(WHOLE)
END = header_end(WHOLE)

layouts = st.builds(
    KVLayout,
    layers=st.lists(st.integers(0, 200), min_size=1, max_size=90, unique=True).map(tuple),
    num_kv_heads=st.integers(1, 3),
    head_dim=st.integers(1, 3),
    format=st.sampled_from(["float32", "bfloat16"]),
)
tokens = st.lists(st.integers(0, 2**31 - 1), min_size=BLOCK_TOKENS, max_size=BLOCK_TOKENS)


def refused(data: bytes, key: BlockKey = KEY) -> str:
    """The reason for which an object is refused."""
    with pytest.raises(ObjectError) as caught:
        check_object(memoryview(data), key)
    assert str(caught.value)
    return caught.value.reason


def forged(header: bytes, version: int = FORMAT_VERSION) -> bytes:
    """An object with any header, whose checksum is right: written down here a second time, from the format's description."""
    checksum = blake3(b"%d.%d." % (version, len(header)) + header).digest(16)
    start = struct.pack("<8sHHI16s", b"TIERCEL\0", version, 0, len(header), checksum)
    return (start + header).ljust(payload_start(SMALL), b"\0") + WHOLE[payload_start(SMALL) :]


def fields() -> dict[str, object]:
    """The header as plain data."""
    plain = msgspec.msgpack.decode(WHOLE[PREFIX_BYTES:END])
    assert isinstance(plain, dict)
    return plain


# -- what is written is read --------------------------------------------------------------------------------------------------


@given(layouts, tokens, st.integers(0, 2**40), st.integers(0, 9), st.integers(0, 500))
def test_round_trip(layout: KVLayout, token_ids: list[int], position: int, group: int, first_head: int) -> None:
    content = BlockContent(a_hash(1), token_bytes(token_ids), position)
    key = BlockKey(namespace_id(SPACE), block_hash(content.parent, content.tokens), group, (first_head, layout.num_kv_heads))
    data = make_object(key, content, layout, seed=position).data
    header = check_object(memoryview(data), key)
    assert len(data) == object_bytes(layout)
    assert (header.key, header.layout, header.first_position, header.token_ids) == (key, layout, position, token_ids)
    assert header.parent == content.parent
    payload = b"".join(data[frame.offset : frame.offset + frame.bytes] for frame in header.frames)
    assert payload == random_payload(layout, position)
    assert [frame.layer for frame in header.frames] == list(layout.layers)


@given(layouts)
def test_the_payload_begins_where_readers_expect_it(layout: KVLayout) -> None:
    assert payload_start(layout) % ALIGNMENT == 0
    assert object_bytes(layout) == payload_start(layout) + len(layout.layers) * frame_bytes(layout)


def test_the_format_as_it_is_described() -> None:
    """A reader of its own: magic, version, length, checksum; a msgpack map; frames behind a multiple of 4,096."""
    magic, version, nothing, length, checksum = struct.unpack_from("<8sHHI16s", WHOLE)
    header = WHOLE[32 : 32 + length]
    assert (magic, version, nothing) == (b"TIERCEL\0", FORMAT_VERSION, 0)
    assert checksum == blake3(b"%d.%d." % (version, length) + header).digest(16)
    read = msgspec.msgpack.decode(header)
    assert read["layout"] == asdict(SMALL) | {"layers": list(SMALL.layers)}
    assert read["block_hash"] == blake3(read["parent"] + read["tokens"] + read["extras"]).digest()
    size = BLOCK_TOKENS * 2 * 4
    assert [frame[:3] for frame in read["frames"]] == [[0, 4096, size], [1, 4096 + size, size], [2, 4096 + 2 * size, size]]
    for _, offset, size, checksum in read["frames"]:
        assert checksum == blake3(WHOLE[offset : offset + size]).digest(16)


def test_a_header_alone_can_be_read() -> None:
    assert (
        decode_header(WHOLE[:END]) == decode_header(memoryview(WHOLE)[:ALIGNMENT]) == decode_header(bytearray(WHOLE)) == HEADER
    )
    assert header_end(WHOLE[:PREFIX_BYTES]) == END


def test_a_header_that_would_reach_into_the_payload_is_not_written() -> None:
    content = BlockContent(a_hash(1), b"\0" * ALIGNMENT, 0)
    with pytest.raises(ValueError, match="no room"):
        encode_header(KEY, content, SMALL, memoryview(random_payload(SMALL, 0)))


# -- damage -------------------------------------------------------------------------------------------------------------------


def test_every_single_bit_counts() -> None:
    for place in range(len(WHOLE)):
        for bit in range(8):
            with pytest.raises(ObjectError):
                check_object(memoryview(flip_bit(WHOLE, place, bit)), KEY)


def test_every_bit_of_a_long_head_counts() -> None:
    """With many layers, zeros fill more than a page."""
    layout = KVLayout(layers=tuple(range(100)), num_kv_heads=1, head_dim=1)
    key, data = make_chain(TOKENS, layout=layout)[0]
    assert payload_start(layout) - header_end(data) > ALIGNMENT
    for place in range(payload_start(layout)):
        assert refused(flip_bit(data, place, place % 8), key) in ("corrupt", "version")
    for frame in decode_header(data).frames:
        assert refused(flip_bit(data, frame.offset + frame.layer, frame.layer % 8), key) == "corrupt"


def test_a_frame_is_checked_on_its_own() -> None:
    view = memoryview(flip_bit(WHOLE, HEADER.frames[1].offset))
    bad = []
    for frame in HEADER.frames:
        try:
            check_frame(frame, view[frame.offset : frame.offset + frame.bytes])
        except ObjectError:
            bad.append(frame.layer)
    assert bad == [1]
    with pytest.raises(ObjectError):
        check_frame(HEADER.frames[0], view[: HEADER.frames[0].bytes - 1])


def test_truncated_at_any_length() -> None:
    for length in range(len(WHOLE)):
        with pytest.raises(ObjectError) as caught:
            check_object(memoryview(WHOLE)[:length], KEY)
        assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("more", [b"\0", b"x", b"\0" * ALIGNMENT])
def test_longer_than_it_should_be(more: bytes) -> None:
    assert refused(WHOLE + more) == "corrupt"


def test_frames_that_changed_places() -> None:
    start, size = payload_start(SMALL), frame_bytes(SMALL)
    changed = WHOLE[:start] + WHOLE[start + size : start + 2 * size] + WHOLE[start : start + size] + WHOLE[start + 2 * size :]
    assert refused(changed) == "corrupt"


# -- other blocks and other versions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        KEY._replace(block_hash=a_hash(5)),
        KEY._replace(namespace="0" * 32),
        KEY._replace(group=1),
        KEY._replace(heads=(1, 1)),
        KEY._replace(heads=(0, 2)),
    ],
)
def test_an_object_under_another_name(key: BlockKey) -> None:
    assert refused(WHOLE, key) == "foreign"


def test_another_layout() -> None:
    check_identity(HEADER, KEY, SMALL)
    for other in KVLayout((0, 1, 3), 1, 1), KVLayout((0, 1, 2), 1, 2), KVLayout((0, 1, 2), 1, 1, "bfloat16"):
        with pytest.raises(ObjectError, match="laid out for another model") as caught:
            check_identity(HEADER, KEY, other)
        assert caught.value.reason == "foreign"


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, 65535])
def test_other_versions_are_recognised(version: int) -> None:
    """Whatever stands behind the number."""
    for data in forged(b"\x93unheard of", version), struct.pack("<8sH", b"TIERCEL\0", version) + b"\xff" * 99:
        assert refused(data) == "version"
        with pytest.raises(ObjectError, match=f"format version {version}"):
            header_end(data)


# -- headers made to deceive: their checksum is right -------------------------------------------------------------------------


def test_the_forger_can_write_an_honest_header() -> None:
    assert forged(msgspec.msgpack.encode(HEADER)) == WHOLE


CHANGES: dict[str, tuple[str, Callable[[ObjectHeader], object]]] = {
    "namespace": ("foreign", lambda _: "0" * 32),
    "block_hash": ("foreign", lambda _: a_hash(5)),
    "group": ("foreign", lambda _: 7),
    "heads": ("foreign", lambda _: (3, 1)),
    "parent": ("foreign", lambda _: a_hash(6)),
    "tokens": ("foreign", lambda _: token_bytes([1, *TOKENS[1:]])),
    "extras": ("foreign", lambda _: b"adapter"),
    "rope_applied": ("foreign", lambda _: False),
    "fidelity": ("foreign", lambda _: "int8"),
    "codec": ("foreign", lambda _: "zstd"),
    "first_position": ("corrupt", lambda _: -1),
    "layout": ("corrupt", lambda _: KVLayout((0, 1, 2), 1, 2)),
    "frames": ("corrupt", lambda h: h.frames[:2]),
}


@pytest.mark.parametrize("field", ObjectHeader.__struct_fields__)
def test_every_field_counts(field: str) -> None:
    reason, change = CHANGES[field]
    changed = msgspec.structs.replace(HEADER, **{field: change(HEADER)})
    assert refused(forged(msgspec.msgpack.encode(changed))) == reason


@pytest.mark.parametrize(
    "layout",
    [
        KVLayout((), 1, 1),
        KVLayout((0, 1, 2), 0, 1),
        KVLayout((0, 1, 2), 1, 0),
        KVLayout((0, 1, -2), 1, 1),
        KVLayout((0, 1, 2), -1, -1),
        KVLayout((0, 1, 2), 1, 1, block_tokens=0),
        KVLayout((0, 1, 2), 1, 1, block_tokens=2**60),
        KVLayout((0, 1, 2), 1, 2**63),
        KVLayout(tuple(range(3000)), 1, 2**63),
        KVLayout((0, 2**64 - 1), 2**64 - 1, 2**64 - 1),
    ],
)
def test_silly_sizes_cost_nothing(layout: KVLayout) -> None:
    frames = tuple(Frame(layer, 2**63, 2**64 - 1, b"") for layer in layout.layers)
    silly = msgspec.structs.replace(HEADER, layout=layout, frames=frames, heads=(0, max(0, layout.num_kv_heads)))
    data = memoryview(forged(msgspec.msgpack.encode(silly)))
    tracemalloc.start()
    try:
        with pytest.raises(ObjectError):
            check_object(data, KEY)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_block_larger_than_any_is_refused_even_if_it_agrees_with_itself() -> None:
    layout = KVLayout((0, 1), 1, 2**20)
    size = frame_bytes(layout)
    frames = tuple(Frame(layer, payload_start(layout) + layer * size, size, b"") for layer in layout.layers)
    with pytest.raises(ObjectError, match="larger than any block"):
        decode_header(forged(msgspec.msgpack.encode(msgspec.structs.replace(HEADER, layout=layout, frames=frames))))


def test_heads_are_as_many_as_the_layout_has() -> None:
    two = msgspec.structs.replace(HEADER, heads=(0, 2))
    assert refused(forged(msgspec.msgpack.encode(two)), KEY._replace(heads=(0, 2))) == "corrupt"


@pytest.mark.parametrize("length", [2**20 + 1, 2**32 - 1])
def test_a_header_cannot_claim_to_be_endless(length: int) -> None:
    with pytest.raises(ObjectError, match="fails its check"):
        header_end(WHOLE[:12] + struct.pack("<I", length) + WHOLE[16:])


def test_hashes_and_tokens_have_their_length() -> None:
    for field, value in ("block_hash", b"short"), ("parent", b""), ("tokens", b"abc"), ("tokens", b""):
        changed = msgspec.structs.replace(HEADER, **{field: value})
        with pytest.raises(ObjectError) as caught:
            decode_header(forged(msgspec.msgpack.encode(changed)))
        assert caught.value.reason == "corrupt"


def test_unknown_fields_are_not_skipped() -> None:
    plain = fields()
    assert forged(msgspec.msgpack.encode(plain)) == WHOLE
    assert refused(forged(msgspec.msgpack.encode(plain | {"scale": 2.0}))) == "corrupt"
    inner = plain | {"layout": plain["layout"] | {"packing": "x"}}
    assert refused(forged(msgspec.msgpack.encode(inner))) == "corrupt"


def test_a_header_has_one_spelling() -> None:
    plain = fields()
    turned = dict(reversed(plain.items()))
    assert turned == plain
    assert refused(forged(msgspec.msgpack.encode(turned))) == "corrupt"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\x81\xa9namespace\xa2\xff\xfe",  # no UTF-8
        b"\x81\xa7unknown" + b"\x91" * 100_000,  # nested deeper than a stack
        b"\xdf\xff\xff\xff\xff",  # a map of 4 thousand million entries
        b"\x81\xa6frames\xdd\xff\xff\xff\xff",
    ],
)
def test_nonsense_behind_a_right_checksum(header: bytes) -> None:
    assert refused(forged(header)) == "corrupt"


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | st.binary(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(ObjectHeader.__struct_fields__), plain_values)
def test_any_value_in_any_field(field: str, value: object) -> None:
    data = forged(msgspec.msgpack.encode(fields() | {field: value}))
    try:
        check_object(memoryview(data), KEY)
    except ObjectError:
        return
    assert data == WHOLE or field == "first_position"  # where a block stands is said by its chain, not by its hash


@given(st.binary(max_size=300))
def test_arbitrary_bytes(data: bytes) -> None:
    for candidate in data, WHOLE[:8] + data, forged(data), b"x" + data + WHOLE:
        with pytest.raises(ObjectError):
            check_object(memoryview(candidate), KEY)
