"""`tiercel cache` on real folders."""

import io
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Tiercel
from tests.support.objects import OTHER_SPACE, SMALL, SPACE, StoredBlock, flip_bit, make_chain, put_all
from tiercel.kv import namespace_id
from tiercel.kv.objects import object_bytes
from tiercel.stores import FileStore
from tiercel.types import BLOCK_TOKENS

HERE, THERE = namespace_id(SPACE), namespace_id(OTHER_SPACE)
CHAIN = make_chain([32 + token % 90 for token in range(4 * BLOCK_TOKENS)])
OTHER = make_chain([9] * BLOCK_TOKENS, OTHER_SPACE)
SIZE = object_bytes(SMALL)


def open_store(folder: Path) -> FileStore:
    return FileStore(folder, capacity=1 << 30, free_floor=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four blocks of one prompt, one of another in a namespace of its own."""
    path = tmp_path / "kv"
    store = open_store(path)
    put_all(store, [*CHAIN, *OTHER])
    store.describe(HERE, json.dumps({"weights": "abcdef" * 10, "network": "llama", "numerics": "reference"}).encode())
    store.close()
    return path


def damage(folder: Path, block: StoredBlock) -> None:
    [file] = folder.rglob(f"{block.key.block_hash.hex()}*")
    file.write_bytes(flip_bit(file.read_bytes(), -1))


# -- stats --------------------------------------------------------------------------------------------------------------------


def test_stats(tiercel: Tiercel, folder: Path) -> None:
    shown = tiercel("cache", "stats", "--kv-disk", f"{folder}:3GiB")
    assert (shown.code, shown.err) == (0, "")
    for text in str(folder), "of 3.0 GiB", HERE, THERE, "abcdefabcdef", "llama", "reference":
        assert text in shown.out
    assert "abcdef" * 3 not in shown.out


def test_stats_for_programs(tiercel: Tiercel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERCEL_KV_DISK", f"{folder}:3GiB")
    (folder / "v0" / HERE / "aa").mkdir(parents=True)
    (folder / "v0" / HERE / "aa" / f"{'a' * 64}-g0-h0+1.kv").write_bytes(b"old")
    figures = json.loads(tiercel("cache", "stats", "--json").out)
    assert figures == {
        "path": str(folder),
        "objects": 5,
        "bytes": 5 * SIZE,
        "capacity": 3 << 30,
        "free_floor": 2 << 30,
        "old_objects": 1,
        "old_bytes": 3,
        "newer_bytes": 0,
        "namespaces": [
            {
                "id": HERE,
                "objects": 4,
                "bytes": 4 * SIZE,
                "description": {"weights": "abcdef" * 10, "network": "llama", "numerics": "reference"},
            },
            {"id": THERE, "objects": 1, "bytes": SIZE, "description": {}},
        ],
    }
    assert "1 objects, 3 B; they go first" in tiercel("cache", "stats").out


@pytest.mark.parametrize(
    ("description", "shown"),
    [
        (b"", {}),
        (b"\xff\xfe", {}),
        (b"[" * 50_000, {}),
        (b"[1, 2]", {}),
        (b'{"weights": "' + b"x" * 70_000 + b'"}', {}),
        (
            b'{"weights": "\\u001b[31mred\\u0007", "network": 7}',
            {"weights": "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}", "network": "7"},
        ),
    ],
)
def test_descriptions_are_not_trusted(tiercel: Tiercel, tmp_path: Path, description: bytes, shown: dict[str, str]) -> None:
    store = open_store(tmp_path / "kv")
    put_all(store, CHAIN)
    store.describe(HERE, description)
    [namespace] = json.loads(tiercel("cache", "stats", "--json", "--kv-disk", str(tmp_path / "kv")).out)["namespaces"]
    assert namespace["description"] == shown
    plain = tiercel("cache", "stats", "--kv-disk", str(tmp_path / "kv"))
    assert plain.code == 0
    assert "\x1b" not in plain.out


# -- ls -----------------------------------------------------------------------------------------------------------------------


def test_ls(tiercel: Tiercel, folder: Path) -> None:
    shown = tiercel("cache", "ls", "--kv-disk", str(folder))
    assert shown.code == 0
    assert CHAIN[0].key.block_hash.hex()[:12] in shown.out
    assert OTHER[0].key.block_hash.hex()[:12] in shown.out
    assert "256" in shown.out
    assert "32 33 34" not in shown.out  # what was asked is told only on request
    assert "32 33 34" in tiercel("cache", "ls", "--tokens", "--kv-disk", str(folder)).out


def test_ls_of_one_namespace(tiercel: Tiercel, folder: Path) -> None:
    [line] = json.loads(tiercel("cache", "ls", "--json", "--namespace", HERE[:8], "--kv-disk", str(folder)).out)
    assert line == {
        "namespace": HERE,
        "chain": CHAIN[0].key.block_hash.hex(),
        "first_position": 0,
        "tokens": 256,
        "blocks": 4,
        "ends": 1,
        "bytes": 4 * SIZE,
        "begins": "",
    }


def test_ls_with_the_words_of_a_model(tiercel: Tiercel, folder: Path, tiny_model: Path) -> None:
    lines = json.loads(tiercel("cache", "ls", "--json", "-m", str(tiny_model), "--kv-disk", str(folder)).out)
    words = {line["namespace"]: line["begins"] for line in lines}
    assert len(words[HERE]) > 10
    assert words[HERE].isprintable()


@pytest.mark.parametrize("asked", ["zz", ""])
def test_a_namespace_must_be_one(tiercel: Tiercel, folder: Path, asked: str) -> None:
    for command in ["ls"], ["verify"], ["clear", "--yes"], ["export", "x.pack"]:
        shown = tiercel("cache", *command, "--namespace", asked, "--kv-disk", str(folder))
        assert (shown.code, shown.out) == (2, "")
        assert f"--namespace: {'none' if asked else 'each of'}" in shown.err
    assert open_store(folder).usage().objects == 5


# -- verify -------------------------------------------------------------------------------------------------------------------


def test_verify_sound(tiercel: Tiercel, folder: Path) -> None:
    shown = tiercel("cache", "verify", "--kv-disk", str(folder))
    assert (shown.code, shown.out) == (0, f"5 objects checked, {5 * SIZE / 1024:.1f} KiB; 0 damaged\n")


def test_verify_and_repair(tiercel: Tiercel, folder: Path) -> None:
    damage(folder, CHAIN[2])
    shown = tiercel("cache", "verify", "--kv-disk", str(folder))
    name = f"{HERE}/{CHAIN[2].key.block_hash.hex()}"
    assert shown.code == 1
    assert shown.out.startswith(f"{name}: the bytes of layer 2 fail their check\n")
    found = tiercel("cache", "verify", "--json", "--kv-disk", str(folder))
    assert (found.code, json.loads(found.out)["removed"]) == (1, 0)
    assert [each["block"] for each in json.loads(found.out)["damaged"]] == [CHAIN[2].key.block_hash.hex()]
    assert tiercel("cache", "verify", "--namespace", THERE, "--kv-disk", str(folder)).code == 0
    repaired = tiercel("cache", "verify", "--repair", "--kv-disk", str(folder))
    assert repaired.code == 0
    assert "1 damaged, 1 of them removed" in repaired.out
    assert tiercel("cache", "verify", "--kv-disk", str(folder)).code == 0
    assert open_store(folder).usage().objects == 4


# -- clear --------------------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """Standard input as a person types it."""

    def isatty(self) -> bool:
        return True


def test_clear_without_a_terminal_wants_to_be_sure(tiercel: Tiercel, folder: Path) -> None:
    shown = tiercel("cache", "clear", "--kv-disk", str(folder))
    assert shown.code == 2
    assert f"--yes: this would remove 5 objects, {5 * SIZE / 1024:.1f} KiB, from {folder}" in shown.err
    assert open_store(folder).usage().objects == 5
    assert tiercel("cache", "clear", "--yes", "--kv-disk", str(folder)).out == "5 objects removed\n"
    assert open_store(folder).usage().objects == 0
    assert tiercel("cache", "clear", "--kv-disk", str(folder)).out == "0 objects removed\n"


def test_clear_of_one_namespace(tiercel: Tiercel, folder: Path) -> None:
    assert tiercel("cache", "clear", "-y", "--namespace", HERE, "--kv-disk", str(folder)).out == "4 objects removed\n"
    assert [entry.key for entry in open_store(folder).list()] == [OTHER[0].key]


@pytest.mark.parametrize(("answer", "left"), [("n\n", 5), ("\n", 5), ("y\n", 0)])
def test_clear_asks_on_a_terminal(
    tiercel: Tiercel, folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    monkeypatch.setattr(io, "StringIO", Terminal)
    shown = tiercel("cache", "clear", "--kv-disk", str(folder), stdin=answer)
    assert shown.code == (1 if left else 0)
    assert "Remove 5 objects" in shown.err
    assert open_store(folder).usage().objects == left


# -- packs --------------------------------------------------------------------------------------------------------------------


def test_export_and_import(tiercel: Tiercel, folder: Path, tmp_path: Path) -> None:
    pack, elsewhere = tmp_path / "my.pack", tmp_path / "elsewhere"
    exported = tiercel("cache", "export", str(pack), "--kv-disk", str(folder))
    assert (exported.code, exported.out) == (0, f"5 objects, {5 * SIZE / 1024:.1f} KiB, in {pack}\n")
    assert "texts" in exported.err
    assert pack.stat().st_mode & 0o777 == 0o600
    imported = tiercel("cache", "import", str(pack), "--kv-disk", str(elsewhere))
    assert (imported.code, imported.err) == (0, "")
    assert imported.out == f"5 objects, {5 * SIZE / 1024:.1f} KiB, stored; 0 were there already\n"
    assert {entry.key for entry in open_store(elsewhere).list()} == {block.key for block in (*CHAIN, *OTHER)}
    assert open_store(elsewhere).namespaces() == open_store(folder).namespaces()
    assert "0 B, stored; 5 were there already" in tiercel("cache", "import", str(pack), "--kv-disk", str(elsewhere)).out


def test_export_leaves_damage_out(tiercel: Tiercel, folder: Path, tmp_path: Path) -> None:
    damage(folder, CHAIN[1])
    shown = tiercel("cache", "export", str(tmp_path / "a.pack"), "--namespace", HERE, "--kv-disk", str(folder))
    assert shown.out.startswith("3 objects, ")
    assert "1 damaged objects left out; `tiercel cache verify --repair` removes them" in shown.err


def test_import_says_what_was_wrong(tiercel: Tiercel, folder: Path, tmp_path: Path) -> None:
    pack = tmp_path / "my.pack"
    tiercel("cache", "export", str(pack), "--kv-disk", str(folder))
    data = bytearray(pack.read_bytes())
    data[data.index(CHAIN[0].data[-64:])] ^= 1
    pack.write_bytes(data[:-20_000])
    shown = tiercel("cache", "import", str(pack), "--kv-disk", str(tmp_path / "elsewhere"))
    assert shown.code == 1
    assert "1 objects refused: they fail their check" in shown.err
    assert "the file ends before its end" in shown.err
    assert shown.out.startswith("2 objects, ")
    assert {entry.key for entry in open_store(tmp_path / "elsewhere").list()} == {CHAIN[1].key, CHAIN[2].key}


def test_what_is_no_pack(tiercel: Tiercel, tmp_path: Path) -> None:
    (tmp_path / "my.pack").write_text("hello")
    shown = tiercel("cache", "import", str(tmp_path / "my.pack"), "--kv-disk", str(tmp_path / "kv"))
    assert (shown.code, shown.out) == (1, "")
    assert "my.pack is not a pack" in shown.err


# -- no store, or one that cannot be used -------------------------------------------------------------------------------------


def test_nothing_stored_yet(tiercel: Tiercel, tmp_path: Path) -> None:
    missing = ("--kv-disk", str(tmp_path / "kv"))
    for command in ["stats"], ["ls"], ["verify"], ["clear"], ["stats", "--json"], ["ls", "--json"], ["verify", "--json"]:
        shown = tiercel("cache", *command, *missing)
        assert shown.code == 0
        assert f"nothing stored yet: there is no folder {tmp_path / 'kv'}" in shown.err
    assert json.loads(tiercel("cache", "stats", "--json", *missing).out)["objects"] == 0
    assert json.loads(tiercel("cache", "ls", "--json", *missing).out) == []
    assert not (tmp_path / "kv").exists()


@pytest.mark.parametrize("command", [["stats"], ["ls"], ["verify"], ["clear"], ["export", "x"], ["import", "x"]])
def test_off(tiercel: Tiercel, command: list[str]) -> None:
    shown = tiercel("cache", *command)  # as the environment of all tests says
    assert (shown.code, shown.out) == (2, "")
    assert "--kv-disk: it is off, so there is no store to work on; name its folder" in shown.err


def test_a_file_in_its_place(tiercel: Tiercel, tmp_path: Path) -> None:
    (tmp_path / "kv").write_text("not a folder")
    shown = tiercel("cache", "stats", "--kv-disk", str(tmp_path / "kv"))
    assert (shown.code, shown.out) == (1, "")
    assert f"the store in {tmp_path / 'kv'} cannot be used" in shown.err
