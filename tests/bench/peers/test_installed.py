"""Who is there to be compared with."""

from pathlib import Path

import pytest

from tiercel.bench.peers import installed
from tiercel.bench.peers.installed import ENTRIES, find_installed
from tiercel.types import InvalidInput

PROGRAMS = [entry.program for entry in ENTRIES if entry.program]
MODELS = ["smollm2-135m/config.json", "ov-smol-int8", "smol-q4_1.gguf", "smol-q8_0.gguf", "smol-bf16.gguf"]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that can be there."""
    touch(tmp_path, *PROGRAMS, *(f"models/{name}" for name in MODELS))
    libraries = [("one", tmp_path / "one.so"), ("other", tmp_path / "other.so")]
    monkeypatch.setattr(installed, "_preloads", lambda folder, peer: libraries if peer == "vllm" else [])
    return tmp_path


def test_all_of_them(folder: Path) -> None:
    model, contenders, missing = find_installed(folder, "smollm2")
    assert (model, missing) == (folder / "models" / "smollm2-135m", {})
    by_name = {each.name: each for each in contenders}
    assert list(by_name) == [entry.name for entry in ENTRIES]
    assert [each.name for each in contenders if each.is_tiercel] == ["tiercel bf16", "tiercel int8", "tiercel stored"]
    assert by_name["tiercel bf16"].model == by_name["vllm"].model == str(model)
    assert by_name["tiercel stored"].model == by_name["llamacpp Q4_1"].model == f"{folder}/models/smol-q4_1.gguf"
    assert by_name["tiercel int8"].options == {"dtype": "int8", "kv_dtype": "int8"}
    assert str(by_name["tiercel int8"].entry.precision) == "int8 / int8 / int8"
    assert by_name["vllm"].environment["LD_PRELOAD"] == f"{folder}/one.so:{folder}/other.so"
    assert by_name["vllm"].environment["TORCHINDUCTOR_CACHE_DIR"] == f"{folder}/cache/inductor"
    assert by_name["transformers"].environment == {}


def test_what_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "models" / "smol-q8_0.gguf").unlink()
    (folder / "venv-ov/bin/python").unlink()
    (folder / "models" / "ov-smol-int8").unlink()
    monkeypatch.setattr(installed, "_preloads", lambda folder, peer: [("libsome.so", None)] if peer == "vllm" else [])
    _, contenders, missing = find_installed(folder, "smollm2")
    assert missing == {
        "vllm": "not installed: no libsome.so for LD_PRELOAD",
        "openvino int8": "not installed: no venv-ov/bin/python and no models/ov-smol-int8",
        "llamacpp Q8_0": "not installed: no models/smol-q8_0.gguf",
    }
    assert len(contenders) == len(ENTRIES) - 3


def test_other_models(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    touch(folder, "models/qwen2-0.5b-rand/config.json", "models/qwen-bf16.gguf")
    other = tmp_path_factory.mktemp("elsewhere")
    touch(other, "some/config.json")
    touch(folder, "models/some-q4_1.gguf")
    qwen, some = find_installed(folder, "qwen2-0.5b"), find_installed(folder, str(other / "some"))
    everywhere = ["tiercel bf16", "tiercel int8", "vllm", "transformers"]
    assert [each.name for each in qwen.contenders] == [*everywhere, "llamacpp BF16"]
    assert [each.name for each in some.contenders] == [
        "tiercel bf16",
        "tiercel int8",
        "tiercel stored",
        *everywhere[2:],
        "llamacpp Q4_1",
    ]
    assert some.model == other / "some"


def test_nobody_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "models/smollm2-135m/config.json")
    with pytest.raises(InvalidInput, match=r"peers: there is no peer in .*: it holds none of venv-vllm/bin/python, venv-hf"):
        find_installed(tmp_path, "smollm2")
    touch(tmp_path, "venv-ov/bin/python")
    with pytest.raises(
        InvalidInput, match=r"peers: no peer can run smollm2: .*; openvino int8: not installed: no models/ov-smol"
    ):
        find_installed(tmp_path, "smollm2")


def test_no_model_is_an_error(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"model: there is no model in /nowhere; name one of smollm2, qwen2-0\.5b"):
        find_installed(folder, "/nowhere")


def test_libraries_of_vllm_are_looked_for(tmp_path: Path) -> None:
    touch(tmp_path, "venv-vllm/lib/libiomp5.so")
    found = dict(installed._preloads(tmp_path, "vllm"))
    assert list(found) == ["libtcmalloc_minimal.so.4", "libiomp5.so"]
    assert found["libiomp5.so"] == tmp_path / "venv-vllm/lib/libiomp5.so"
    assert list(installed._preloads(tmp_path, "openvino")) == []
