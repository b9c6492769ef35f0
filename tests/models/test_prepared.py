"""What is kept of a model between starts: found again, never used when it should not be, never in the way."""

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.model_files import TEXTS, smollm2_path, write_directory, write_tiny_gguf
from tiercel.models import prepared
from tiercel.models.checkpoint import Checkpoint, open_checkpoint
from tiercel.models.prepared import FILE, folder, kept_bytes, open_prepared
from tiercel.models.tokenizer import load_tokenizer
from tiercel.types import CheckpointError


def settle(path: Path) -> Path:
    """As if the files of a model had been written some time ago."""
    for file in [path, *(path.iterdir() if path.is_dir() else ())]:
        os.utime(file, ns=(0, file.stat().st_mtime_ns - 10**10))
    return path


def start(path: Path, root: Path | None) -> Checkpoint:
    """Opens a model and asks for its fingerprint, as an engine does."""
    checkpoint = open_prepared(path, root)
    assert len(checkpoint.fingerprint) == 64
    return checkpoint


def recalled(checkpoint: Checkpoint) -> bool:
    return type(checkpoint).__name__ == "_Recalled"


def facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything that can be told of a checkpoint, but where it keeps things."""
    tokenizer = checkpoint.tokenizer
    return {
        "path": (checkpoint.path, checkpoint.name),
        "config": checkpoint.config,
        "config as written": repr(checkpoint.config),
        "template": checkpoint.chat_template,
        "metadata": dict(checkpoint.metadata),
        "defaults": dict(checkpoint.generation_defaults),
        "fingerprint": checkpoint.fingerprint,
        "parameters": (dict(checkpoint.parameters), checkpoint.matrix_formats),
        "tokenizer": tokenizer.to_json(),
        "vocabulary": (tokenizer.vocab_size, tokenizer.bos_token_id, tokenizer.eos_token_ids, tokenizer.special_tokens),
        "ids": [tokenizer.encode(text, parse_special=special) for text in TEXTS for special in (True, False)],
        "bytes": [tokenizer.token_bytes(token) for token in range(0, tokenizer.vocab_size, 7)],
        "weights": {name: (w.format, w.shape, w.data.tobytes()) for name, w in checkpoint.weights.items()},
    }


@pytest.fixture(params=["gguf", "directory"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "gguf":
        return settle(write_tiny_gguf(tmp_path / "model.gguf"))
    directory = write_directory(tmp_path / "model", rope_scaling={"rope_type": "linear", "factor": 2.0})
    (directory / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 0.7}))
    return settle(directory)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "models"


def test_a_second_start_finds_what_the_first_one_read(model: Path, root: Path) -> None:
    first, second = start(model, root), start(model, root)
    assert not recalled(first)
    assert recalled(second)
    assert facts(second) == facts(first) == facts(open_checkpoint(model))


def test_the_real_model(root: Path) -> None:
    start(smollm2_path(), root)
    second = start(smollm2_path(), root)
    assert recalled(second)
    assert facts(second) == facts(open_checkpoint(smollm2_path()))


def test_a_second_start_reads_neither_the_files_nor_the_weights(
    model: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(model, root)
    monkeypatch.setattr("tiercel.models.prepared.open_checkpoint", None)
    monkeypatch.setattr("tiercel.models.prepared.open_weights", None)
    second = start(model, root)
    assert second.parameters["F32"] > 0
    assert second.matrix_formats == ("F32",)
    assert second.tokenizer.encode("hello")


def test_nothing_is_kept_until_the_fingerprint_is_known(model: Path, root: Path) -> None:
    open_prepared(model, root)
    assert not recalled(open_prepared(model, root))


def test_off(model: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert start(model, None).folder is None
    assert folder(model, None) is None
    assert not recalled(start(model, None))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_changed_file_is_noticed(model: Path, root: Path) -> None:
    start(model, root)
    file = model if model.is_file() else model / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x40
    file.write_bytes(content)
    settle(model)
    changed = start(model, root)
    assert not recalled(changed)
    assert facts(changed) == facts(open_checkpoint(model))
    assert recalled(start(model, root))


def test_a_change_is_noticed_though_size_and_time_of_change_are_as_before(model: Path, root: Path) -> None:
    first = start(model, root)
    file = model if model.is_file() else model / "model.safetensors"
    info, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 0x40
    file.write_bytes(content)
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert file.stat().st_mtime_ns == info.st_mtime_ns
    assert start(model, root).fingerprint != first.fingerprint


def test_a_file_that_is_new_in_a_directory_is_noticed(root: Path, tmp_path: Path) -> None:
    model = settle(write_directory(tmp_path / "model"))
    start(model, root)
    (model / "chat_template.jinja").write_text("another")
    settle(model)
    assert start(model, root).chat_template == "another"


def test_another_file_in_the_same_place_is_another_model(root: Path, tmp_path: Path) -> None:
    path = settle(write_tiny_gguf(tmp_path / "model.gguf"))
    start(path, root)
    settle(write_tiny_gguf(tmp_path / "new.gguf", general__name="other", tokenizer__ggml__bos_token_id=None)).replace(path)
    assert facts(start(path, root)) == facts(open_checkpoint(path))


def test_files_changed_a_moment_ago_may_change_again_and_are_not_kept(root: Path, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "model.gguf")
    assert start(path, root).folder is None
    assert not recalled(start(path, root))


def test_weights_of_a_file_that_changed_since_it_was_opened_are_refused(model: Path, root: Path) -> None:
    start(model, root)
    second = open_prepared(model, root)
    os.utime(model if model.is_file() else model / "model.safetensors", ns=(0, 0))
    with pytest.raises(CheckpointError, match="was changed since it was opened"):
        second.weights["model.embed_tokens.weight"]


def test_what_other_code_kept_is_not_used(model: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(model, root)
    monkeypatch.setattr(prepared, "_reader", lambda: ["a later version"])
    assert not recalled(start(model, root))
    assert recalled(start(model, root))


def test_a_kept_file_of_another_model_is_not_used(root: Path, tmp_path: Path) -> None:
    one = settle(write_tiny_gguf(tmp_path / "one.gguf"))
    other = settle(write_tiny_gguf(tmp_path / "other.gguf", tokenizer__chat_template="another"))
    places = [start(path, root).folder for path in (one, other)]
    assert None not in places
    (Path(str(places[1])) / FILE).write_bytes((Path(str(places[0])) / FILE).read_bytes())
    assert facts(start(other, root)) == facts(open_checkpoint(other))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, Path, dict[str, Any]]]:
    """A model, its cache, the kept file and what is right."""
    base = tmp_path_factory.mktemp("kept")
    path, root = settle(write_tiny_gguf(base / "model.gguf")), base / "models"
    own = start(path, root).folder
    assert own is not None
    return path, root, own / FILE, facts(open_checkpoint(path))


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_damaged_byte_is_noticed(kept: tuple[Path, Path, Path, dict[str, Any]], place: float, mask: int) -> None:
    path, root, file, right = kept
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(whole))] ^= mask
    file.write_bytes(damaged)
    opened = start(path, root)
    assert not recalled(opened)
    assert facts(opened) == right
    assert file.read_bytes() == whole
    assert recalled(start(path, root))


@settings(max_examples=30)
@given(share=st.floats(0, 1, exclude_max=True), tail=st.binary(max_size=20))
def test_a_truncated_file_is_noticed(kept: tuple[Path, Path, Path, dict[str, Any]], share: float, tail: bytes) -> None:
    path, root, file, right = kept
    whole = file.read_bytes()
    cut = whole[: int(share * len(whole))] + tail
    file.write_bytes(cut)
    opened = start(path, root)
    assert recalled(opened) == (cut == whole)
    assert facts(opened) == right


def test_folders_and_files_are_this_users_alone(model: Path, root: Path) -> None:
    own = start(model, root).folder
    assert own is not None
    assert own == folder(model, root)
    assert kept_bytes(own) == (own / FILE).stat().st_size
    assert {stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")] if path.is_dir()} == {0o700}
    assert stat.S_IMODE((own / FILE).stat().st_mode) == 0o600


def test_what_is_of_no_use_any_more_goes(root: Path, tmp_path: Path) -> None:
    stays, changes, goes = (settle(write_tiny_gguf(tmp_path / f"{name}.gguf")) for name in ("stays", "changes", "goes"))
    first = {path: start(path, root).folder for path in (stays, changes, goes)}
    packed = Path(str(first[changes])) / "packed weights"
    packed.write_bytes(b"x" * 100)
    foreign = root / "notes.txt"
    foreign.write_text("mine")
    os.utime(changes, ns=(0, 0))
    goes.unlink()
    start(changes, root)
    assert recalled(start(stays, root))
    assert not packed.parent.exists()
    assert not Path(str(first[goes])).parent.exists()
    assert foreign.read_text() == "mine"


def test_a_home_that_cannot_be_written_to_is_no_trouble(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert facts(start(model, tmp_path / "file" / "models")) == facts(open_checkpoint(model))


def test_a_folder_that_others_may_write_to_is_not_used(model: Path, root: Path) -> None:
    start(model, root)
    root.chmod(0o777)
    assert not recalled(start(model, root))
    assert folder(model, root) is None


def test_a_full_disk_is_no_trouble(model: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tiercel.stores.file.temporary.write_all", full)
    assert facts(start(model, root)) == facts(open_checkpoint(model))
    assert not [path for path in root.rglob("*") if path.is_file()]


CHILD = """
import sys
from pathlib import Path
from tiercel.models.prepared import open_prepared
checkpoint = open_prepared(Path(sys.argv[1]), Path(sys.argv[2]))
print(checkpoint.fingerprint, checkpoint.tokenizer.encode("hello"), sorted(checkpoint.parameters.items()))
"""


def test_processes_that_start_at_once(root: Path, tmp_path: Path) -> None:
    path = settle(write_tiny_gguf(tmp_path / "model.gguf"))
    command = [sys.executable, "-c", CHILD, str(path), str(root)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {child.communicate()[0] for child in children}
    assert [child.returncode for child in children] == [0] * 4
    right = open_checkpoint(path)
    assert said == {f"{right.fingerprint} {right.tokenizer.encode('hello')} {sorted(right.parameters.items())}\n"}
    assert recalled(start(path, root))
    assert [file.name for file in root.rglob("*") if file.is_file()] == [FILE]


def test_merges_of_tokens_with_spaces_stay_as_they_are(tmp_path: Path) -> None:
    tokenizer = open_checkpoint(write_tiny_gguf(tmp_path / "model.gguf")).tokenizer
    content = json.loads(tokenizer.to_json())
    assert content["model"]["merges"]
    content["model"]["vocab"] |= {"h ": 500, "h e": 501, "#version": 502, "#versione": 503}
    for pair in (["h ", "e"], ["#version", "e"]):
        content["model"]["merges"] = [pair]
        text = json.dumps(content).encode()
        odd = load_tokenizer(tokenizer.dump()[0], text)
        assert load_tokenizer(*odd.dump()).to_json() == odd.to_json()
        assert json.loads(odd.to_json())["model"]["merges"] == [pair]


def test_a_second_start_is_quicker(root: Path) -> None:
    def seconds() -> float:
        begin = time.process_time()
        start(smollm2_path(), root)
        return time.process_time() - begin

    first = seconds()
    assert min(seconds() for _ in range(3)) < first / 2
