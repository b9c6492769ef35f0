"""Packs carry blocks from store to store, and nothing else."""

import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.objects import OTHER_SPACE, SPACE, StoredBlock, a_hash, flip_bit, make_chain, put_all
from tiercel.kv import namespace_id
from tiercel.kv.pack import (
    MANIFEST_NAME,
    Imported,
    PackError,
    export_pack,
    import_pack,
    member_name,
    parse_member_name,
)
from tiercel.stores import Read, Result, Status, Write
from tiercel.stores.memory import MemoryStore
from tiercel.types import BLOCK_TOKENS, BlockKey

HERE, THERE = namespace_id(SPACE), namespace_id(OTHER_SPACE)
CHAIN = make_chain([token % 1000 for token in range(5 * BLOCK_TOKENS)])
OTHER = make_chain([token % 1000 for token in range(3 * BLOCK_TOKENS)], OTHER_SPACE)
MANIFEST = {"pack_version": 1, "format_version": 1, "namespaces": {HERE: "e30="}}

Member = tuple[tarfile.TarInfo, bytes]


def store_of(*blocks: StoredBlock) -> MemoryStore:
    store = MemoryStore()
    put_all(store, blocks)
    return store


def content(store: MemoryStore) -> dict[BlockKey, bytes]:
    found = {}
    for entry in store.list():
        data = bytearray(entry.bytes)
        store.get([Read(entry.key, 0, (memoryview(data),))], float("inf"))
        found[entry.key] = bytes(data)
    return found


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **attributes: object) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, data


def stored(block: StoredBlock) -> Member:
    return member(member_name(block.key), block.data)


def manifest(**changes: object) -> Member:
    return member(MANIFEST_NAME, json.dumps(MANIFEST | changes).encode())


def tar_bytes(members: Iterable[Member], form: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def imported(tmp_path: Path, data: bytes, store: MemoryStore | None = None) -> tuple[Imported, MemoryStore]:
    store = MemoryStore() if store is None else store
    path = tmp_path / "given.pack"
    path.write_bytes(data)
    return import_pack(store, path), store


# -- there and back -----------------------------------------------------------------------------------------------------------


def test_round_trip(tmp_path: Path) -> None:
    source, pack = store_of(*CHAIN, *OTHER), tmp_path / "all.pack"
    source.describe(HERE, b'{"weights": "abc"}')
    exported = export_pack(source, pack)
    assert (exported.objects, exported.bytes, exported.skipped) == (8, source.usage().bytes, 0)
    target = MemoryStore()
    result = import_pack(target, pack)
    assert result == Imported(objects=8, bytes=source.usage().bytes)
    assert content(target) == content(source)
    assert target.namespaces() == {HERE: b'{"weights": "abc"}', THERE: b""}


def test_some_of_a_store(tmp_path: Path) -> None:
    source = store_of(*CHAIN, *OTHER)
    assert export_pack(source, tmp_path / "one.pack", namespace=THERE).objects == 3
    assert content(imported(tmp_path, (tmp_path / "one.pack").read_bytes())[1]).keys() == {block.key for block in OTHER}
    assert export_pack(source, tmp_path / "two.pack", keys={CHAIN[0].key, OTHER[0].key}).objects == 2
    assert content(imported(tmp_path, (tmp_path / "two.pack").read_bytes())[1]).keys() == {CHAIN[0].key, OTHER[0].key}


def test_a_pack_is_a_plain_tar_file_of_private_mode(tmp_path: Path) -> None:
    pack = tmp_path / "all.pack"
    export_pack(store_of(*reversed(CHAIN)), pack)
    with tarfile.open(pack, "r:") as tar:
        names = tar.getnames()
        first = tar.extractfile(names[0])
        assert first is not None
        assert json.load(first) == {"pack_version": 1, "format_version": 1, "namespaces": {HERE: ""}}
    assert names == [MANIFEST_NAME, *(member_name(block.key) for block in CHAIN)]  # parents before children
    assert pack.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["all.pack"]


def test_the_same_objects_make_the_same_pack(tmp_path: Path) -> None:
    export_pack(store_of(*CHAIN, *OTHER), tmp_path / "a.pack")
    export_pack(store_of(*reversed(OTHER), *reversed(CHAIN)), tmp_path / "b.pack")
    assert (tmp_path / "a.pack").read_bytes() == (tmp_path / "b.pack").read_bytes()


def test_a_second_import_changes_nothing(tmp_path: Path) -> None:
    export_pack(store_of(*CHAIN), tmp_path / "a.pack")
    _, store = imported(tmp_path, (tmp_path / "a.pack").read_bytes())
    assert import_pack(store, tmp_path / "a.pack") == Imported(known=5)


def test_beginnings_outlive_what_continues_them(tmp_path: Path) -> None:
    export_pack(store_of(*CHAIN), tmp_path / "a.pack")
    store = MemoryStore(capacity=(tmp_path / "a.pack").stat().st_size)
    import_pack(store, tmp_path / "a.pack")
    room = (tmp_path / "a.pack").stat().st_size - store.usage().bytes
    put_all(store, [StoredBlock(BlockKey("0" * 32, a_hash(1), 0, (0, 1)), b"x" * (room + 1))])
    assert {key for key in content(store) if key.namespace == HERE} == {block.key for block in CHAIN[:4]}


@given(
    st.builds(
        BlockKey,
        st.text("0123456789abcdef", min_size=32, max_size=32),
        st.binary(min_size=32, max_size=32),
        st.integers(0, 999_999_999),
        st.tuples(st.integers(0, 999_999_999), st.integers(0, 999_999_999)),
    )
)
def test_names_spell_keys(key: BlockKey) -> None:
    assert parse_member_name(member_name(key)) == key


NAME = member_name(CHAIN[0].key)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/" + NAME,
        "../" + NAME,
        "./" + NAME,
        NAME + "/",
        NAME + "\n",
        NAME.upper(),
        NAME.replace("-g0", "-g00"),
        NAME.replace("-g0", "-g-1"),
        NAME.replace("-g0", "-g\u0660"),
        NAME.replace("+1", "+1000000000"),
        NAME.replace("/", "//"),
        NAME[1:],
        NAME.removesuffix(".kv"),
    ],
)
def test_other_names_are_no_keys(name: str) -> None:
    assert parse_member_name(name) is None


# -- export: what may go wrong ------------------------------------------------------------------------------------------------


def test_damaged_objects_are_left_out(tmp_path: Path) -> None:
    bad_header = StoredBlock(CHAIN[1].key, flip_bit(CHAIN[1].data, 50))
    bad_frame = StoredBlock(CHAIN[3].key, flip_bit(CHAIN[3].data, len(CHAIN[3].data) - 1))
    exported = export_pack(store_of(CHAIN[0], bad_header, CHAIN[2], bad_frame), tmp_path / "a.pack")
    assert (exported.objects, exported.skipped) == (2, 2)
    result, store = imported(tmp_path, (tmp_path / "a.pack").read_bytes())
    assert (result.objects, result.refused) == (2, 0)
    assert content(store).keys() == {CHAIN[0].key, CHAIN[2].key}


def test_another_file_is_replaced_only_by_a_whole_pack(tmp_path: Path) -> None:
    class Failing(MemoryStore):
        def get(self, reads: Sequence[Read], deadline: float) -> list[Result]:
            if reads[0].key == CHAIN[2].key and reads[0].buffers[0].nbytes == len(CHAIN[2].data):
                assert len(os.listdir(tmp_path)) == 2  # it is being written
                raise KeyboardInterrupt
            return super().get(reads, deadline)

    pack = tmp_path / "a.pack"
    pack.write_text("yesterday's")
    broken = Failing()
    put_all(broken, CHAIN)
    with pytest.raises(KeyboardInterrupt):
        export_pack(broken, pack)
    assert (os.listdir(tmp_path), pack.read_text()) == (["a.pack"], "yesterday's")
    export_pack(store_of(*CHAIN), pack)
    assert (os.listdir(tmp_path), tarfile.is_tarfile(pack)) == (["a.pack"], True)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="cannot be written"):
        export_pack(store_of(*CHAIN), tmp_path / "missing" / "a.pack")
    for place in tmp_path, Path("/dev/null"):
        with pytest.raises(PackError, match="not a regular file"):
            export_pack(store_of(*CHAIN), place)
    assert not Path("/dev/null").is_file()


# -- import: what may be wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 10, 40, 3000, 4096, -1])
def test_a_damaged_object_is_refused_and_the_others_kept(tmp_path: Path, place: int) -> None:
    bad = StoredBlock(CHAIN[1].key, flip_bit(CHAIN[1].data, place))
    result, store = imported(tmp_path, tar_bytes([manifest(), stored(CHAIN[0]), stored(bad), stored(CHAIN[2])]))
    assert (result.objects, result.refused, result.cut_short) == (2, 1, False)
    assert content(store) == {block.key: block.data for block in (CHAIN[0], CHAIN[2])}
    assert result.details[0].startswith(member_name(bad.key))


def test_an_object_under_another_name_is_refused(tmp_path: Path) -> None:
    swapped = member(member_name(CHAIN[1].key), CHAIN[2].data)
    elsewhere = member(member_name(CHAIN[1].key._replace(namespace=THERE)), CHAIN[1].data)
    result, store = imported(tmp_path, tar_bytes([manifest(), swapped, elsewhere]))
    assert (result.objects, result.refused, content(store)) == (0, 2, {})


def test_whatever_is_no_object_is_ignored(tmp_path: Path) -> None:
    name = member_name(CHAIN[0].key)
    strange = [
        member("README", b"x" * 2000),
        member("../../etc/passwd", CHAIN[0].data),
        member("/" + name, CHAIN[0].data),
        member("folder", kind=tarfile.DIRTYPE),
        member(name, kind=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member(name, kind=tarfile.LNKTYPE, linkname="/etc/passwd"),
        member(name, kind=tarfile.CHRTYPE, devmajor=1, devminor=5),
        member(name, kind=tarfile.FIFOTYPE),
        member(name, CHAIN[0].data, kind=b"Z"),
        manifest(),
    ]
    result, store = imported(tmp_path, tar_bytes([manifest(), *strange, stored(CHAIN[1])]))
    assert result == Imported(objects=1, bytes=len(CHAIN[1].data), ignored=len(strange))
    assert content(store).keys() == {CHAIN[1].key}
    assert os.listdir(tmp_path) == ["given.pack"]


def test_links_have_no_data_whatever_size_they_claim(tmp_path: Path) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.size = tarfile.LNKTYPE, 5000
    data = tar_bytes([manifest()])[:1024] + link.tobuf(tarfile.USTAR_FORMAT) + tar_bytes([stored(CHAIN[0])])
    result, store = imported(tmp_path, data)
    assert (content(store).keys(), result.ignored) == ({CHAIN[0].key}, 1)


def test_a_member_larger_than_any_object_is_passed_over(tmp_path: Path) -> None:
    size = (1 << 30) + 512
    huge = tarfile.TarInfo(member_name(CHAIN[1].key))
    huge.size = size
    path = tmp_path / "huge.pack"
    with path.open("wb") as file:
        file.write(tar_bytes([manifest()])[:1024] + huge.tobuf(tarfile.USTAR_FORMAT))
        file.seek(size, os.SEEK_CUR)  # a hole
        file.write(tar_bytes([stored(CHAIN[0])]))
    store = MemoryStore()
    result = import_pack(store, path)
    assert (result.objects, result.refused, result.cut_short) == (1, 1, False)
    assert content(store).keys() == {CHAIN[0].key}
    assert result.details == [f"{huge.name}: it has {size} bytes, more than any object"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_extensions_of_the_format_are_members_of_no_use(tmp_path: Path, form: int) -> None:
    """Names longer than 100 characters stand in members of their own there; what follows is found all the same."""
    data = tar_bytes([manifest(), member("long" * 100, b"x")], form).rstrip(b"\0")
    result, store = imported(tmp_path, data + bytes(-len(data) % 512) + tar_bytes([stored(CHAIN[0])]))
    assert (content(store).keys(), result.ignored, result.cut_short) == ({CHAIN[0].key}, 2, False)


def test_an_extension_cannot_fill_the_memory(tmp_path: Path) -> None:
    """A header of 64 MiB, which tarfile would read whole, and a sparse file."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 64 << 20
    sparse = member(NAME, kind=tarfile.GNUTYPE_SPARSE)[0]
    data = tar_bytes([manifest()])[:1024] + info.tobuf() + bytes(64 << 20) + sparse.tobuf(tarfile.USTAR_FORMAT) + bytes(1024)
    path = tmp_path / "big.pack"
    path.write_bytes(data)
    del data
    tracemalloc.start()
    try:
        result = import_pack(MemoryStore(), path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert (result.objects, result.ignored, result.cut_short) == (0, 2, False)


@pytest.mark.parametrize("size", [1 << 30, (1 << 30) + 1, 8**11 - 1, 1 << 60])
def test_a_member_cannot_claim_more_than_there_is(tmp_path: Path, size: int) -> None:
    info = tarfile.TarInfo(member_name(CHAIN[1].key))
    info.size = size
    start = tar_bytes([manifest(), stored(CHAIN[0])]).rstrip(b"\0")
    start += bytes(-len(start) % 512)
    result, store = imported(tmp_path, start + info.tobuf(tarfile.GNU_FORMAT) + CHAIN[1].data)
    assert (result.objects, result.cut_short, content(store).keys()) == (1, True, {CHAIN[0].key})


def test_a_member_of_negative_size(tmp_path: Path) -> None:
    info = tarfile.TarInfo("strange")
    info.size = -512
    result, _ = imported(tmp_path, tar_bytes([manifest()])[:1024] + info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert (result.cut_short, result.details) == (True, ["it stops being a tar file: a member of negative size"])


def test_cut_short_at_any_length(tmp_path: Path) -> None:
    """What came whole is kept."""
    whole = tar_bytes([manifest(), *map(stored, CHAIN)])
    size, first = len(CHAIN[0].data), 1024
    assert size % 512 == 0
    for length in range(first, first + 5 * (512 + size), 509):
        result, store = imported(tmp_path, whole[:length])
        came = (length - first) // (512 + size)
        assert (result.objects, result.cut_short) == (came, True)
        assert content(store) == {block.key: block.data for block in CHAIN[:came]}


def test_rubbish_in_the_middle(tmp_path: Path) -> None:
    data = tar_bytes([manifest(), stored(CHAIN[0])]).rstrip(b"\0")
    data += bytes(-len(data) % 512) + b"rubbish" * 1000
    result, _ = imported(tmp_path, data)
    assert (result.objects, result.cut_short) == (1, True)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not a pack"),
        (b"hello", "is not a pack"),
        (bytes(4096), "is not a pack: a pack is a plain tar file"),
        (b"\x1f\x8b" + b"compressed" * 200, "is not a pack"),
        (tar_bytes([]), "is not a pack"),
        (tar_bytes([stored(CHAIN[0]), manifest()]), "begins with tiercel-pack.json"),
        (tar_bytes([member(MANIFEST_NAME, b"nonsense")]), "is not a pack"),
        (tar_bytes([member(MANIFEST_NAME, b"[" * 100_000)]), "is not a pack"),
        (tar_bytes([member(MANIFEST_NAME, b"{}")]), "is not a pack"),
        (tar_bytes([member(MANIFEST_NAME, kind=tarfile.SYMTYPE, linkname="x")]), "is not a pack"),
        (tar_bytes([manifest(namespaces={HERE: 5})]), "is not a pack"),
        (tar_bytes([manifest(namespaces={HERE: "not base64"})]), "is not a pack"),
        (tar_bytes([manifest(pack_version=2), stored(CHAIN[0])]), "is a pack of version 2"),
        (tar_bytes([manifest(format_version=0), stored(CHAIN[0])]), "with blocks of format version 0"),
        (tar_bytes([manifest()])[:600], "its beginning is damaged: it ends before its end"),
    ],
)
def test_what_is_no_pack(tmp_path: Path, data: bytes, said: str) -> None:
    store = MemoryStore()
    with pytest.raises(PackError, match=said):
        imported(tmp_path, data, store)
    assert (content(store), store.namespaces()) == ({}, {})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in tmp_path / "missing", tmp_path:
        with pytest.raises(PackError, match="cannot be imported"):
            import_pack(MemoryStore(), path)


def test_a_pack_larger_than_the_store(tmp_path: Path) -> None:
    data = tar_bytes([manifest(), *map(stored, CHAIN)])
    store = MemoryStore(capacity=len(data) - 1)
    with pytest.raises(PackError, match="give the store a larger size"):
        imported(tmp_path, data, store)
    assert store.usage().objects == 0


def test_what_the_store_does_not_take_is_counted(tmp_path: Path) -> None:
    class Full(MemoryStore):
        def put(self, writes: Sequence[Write], deadline: float) -> list[Result]:
            return [Result(Status.FULL, detail="the disk is full") for _ in writes]

    result, store = imported(tmp_path, tar_bytes([manifest(), *map(stored, CHAIN[:2])]), Full())
    assert (result.objects, result.not_stored, store.namespaces()) == (0, 2, {})
    assert result.details[0].endswith("the store did not take it: the disk is full")


def test_descriptions(tmp_path: Path) -> None:
    """Only of namespaces that objects came for, and only short ones."""
    long = "eHh4" * 2000
    members = [manifest(namespaces={HERE: "e30=", THERE: long, "f" * 32: "e30="}), stored(CHAIN[0]), stored(OTHER[0])]
    _, store = imported(tmp_path, tar_bytes(members))
    assert store.namespaces() == {HERE: b"{}", THERE: b""}


def test_few_reasons_are_kept(tmp_path: Path) -> None:
    bad = [member(member_name(block.key), b"") for block in (*CHAIN, *OTHER)]
    result, _ = imported(tmp_path, tar_bytes([manifest(), *bad]))
    assert (result.refused, len(result.details)) == (8, 5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=8), st.booleans())
def test_any_header_block(tmp_path: Path, changes: list[tuple[int, int]], mend: bool) -> None:
    """A member's header with some bytes changed, its checksum mended or not: counted somehow, never stored wrong."""
    whole = bytearray(tar_bytes([manifest(), stored(CHAIN[0]), stored(CHAIN[1])]))
    for place, value in changes:
        whole[1024 + place] = value
    if mend:
        whole[1024 + 148 : 1024 + 156] = b" " * 8
        whole[1024 + 148 : 1024 + 155] = b"%06o\0" % sum(whole[1024:1536])
    result, store = imported(tmp_path, bytes(whole))
    right = {block.key: block.data for block in CHAIN[:2]}
    assert content(store).items() <= right.items()
    assert result.objects == len(content(store))
