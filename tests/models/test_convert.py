"""GGUF files as safetensors: the same model to Tiercel and to transformers, under the same fingerprint."""

import os
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.model_files import (
    LAYERS,
    TEXTS,
    gguf_metadata,
    gguf_tensors,
    hf_tensors,
    smollm2_path,
    write_directory,
    write_gguf,
    write_tiny_gguf,
)
from tests.support.networks import Run
from tests.support.real_model import llm
from tiercel import LLM
from tiercel.config import EngineConfig
from tiercel.engine.build import namespace
from tiercel.models import Checkpoint, convert_model, open_checkpoint, render_chat
from tiercel.models.weights import fingerprint
from tiercel.ops import dequantize, load_ops
from tiercel.types import InvalidInput, ModelError, Namespace, SamplingParams

TOLERANCE = 1e-4  # of the largest logit
MESSAGES = [{"role": "user", "content": "Name three rivers."}, {"role": "assistant", "content": "Rhône, Óbidos 🙂"}]

# name: architecture in the file, tied, weight format, changed metadata
TINY: dict[str, tuple[str, bool, str, dict[str, object]]] = {
    "llama": ("llama", False, "Q4_1", {}),
    "llama-tied": ("llama", True, "F16", {"llama__rope__freq_base": 123456.789}),
    "llama-linear": ("llama", False, "Q8_0", {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 3.3}),
    "llama-factors": ("llama", False, "Q8_0", {}),
    "mistral": ("llama", False, "Q4_0", {"llama__attention__sliding_window": 20}),
    "qwen2": ("qwen2", True, "Q5_0", {"tokenizer__ggml__pre": "qwen2"}),
    "qwen2-window": ("qwen2", False, "BF16", {"tokenizer__ggml__pre": "qwen2", "qwen2__attention__sliding_window": 20}),
    "qwen2-yarn": (
        "qwen2",
        False,
        "Q8_0",
        {
            "tokenizer__ggml__pre": "qwen2",
            "qwen2__rope__scaling__type": "yarn",
            "qwen2__rope__scaling__factor": 4.0,
            "qwen2__rope__scaling__original_context_length": 128,
            "qwen2__rope__scaling__attn_factor": 1.1,
        },
    ),
    "qwen3": ("qwen3", False, "F32", {"tokenizer__ggml__pre": "llama-bpe"}),
}
KINDS = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}


def write_tiny(path: Path, name: str) -> Path:
    architecture, tied, format, changes = TINY[name]
    tensors = hf_tensors(bias=architecture == "qwen2", qk_norm=architecture == "qwen3")
    if tied:
        del tensors["lm_head.weight"]
    stored = gguf_tensors(tensors, KINDS[architecture])
    if name == "llama-factors":
        stored["rope_freqs.weight"] = np.array([1.0, 1.3, 5.7, 8.0], np.float32)
    return write_gguf(path, gguf_metadata(architecture, **changes), stored, architecture=architecture, format=format)


@pytest.fixture(scope="module", params=TINY)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    """A tiny GGUF model and what it was converted to."""
    folder = tmp_path_factory.mktemp("pair")
    source = write_tiny(folder / "m.gguf", request.param)
    convert_model(source, folder / "copy")
    return open_checkpoint(source), open_checkpoint(folder / "copy")


def kv_namespace(checkpoint: Checkpoint) -> Namespace:
    return namespace(EngineConfig(), checkpoint, load_ops().numerics)


def logits(checkpoint: Checkpoint, token_ids: list[int]) -> np.ndarray:
    return Run(checkpoint.config, checkpoint.weights, load_ops()).logits({"a": token_ids})["a"]


def test_kv_of_one_is_kv_of_the_other(pair: tuple[Checkpoint, Checkpoint]) -> None:
    original, copy = pair
    assert kv_namespace(copy) == kv_namespace(original)
    assert {**vars(copy.config), "max_position": 0} == {**vars(original.config), "max_position": 0}
    assert set(copy.weights) == set(original.weights)
    for name, weight in copy.weights.items():
        assert weight.format.name == "F32"
        assert np.array_equal(dequantize(weight), dequantize(original.weights[name])), name
    token_ids = list(range(40, 110))
    assert np.array_equal(logits(copy, token_ids), logits(original, token_ids))


def test_tokenizer_and_template(pair: tuple[Checkpoint, Checkpoint]) -> None:
    original, copy = (checkpoint.tokenizer for checkpoint in pair)
    for text in TEXTS:
        ids = original.encode(text)
        assert copy.encode(text) == ids
        assert copy.decode(ids) == original.decode(ids)
        assert copy.encode(text, parse_special=False) == original.encode(text, parse_special=False)
    for name in ("vocab_size", "bos_token_id", "eos_token_ids", "special_tokens"):
        assert getattr(copy, name) == getattr(original, name)
    prompts = [render_chat(checkpoint.chat_template, checkpoint.tokenizer, MESSAGES) for checkpoint in pair]
    assert prompts[0] == prompts[1]
    assert "Rhône" in prompts[0]


@torch.inference_mode()
def test_transformers_reads_the_same_model(pair: tuple[Checkpoint, Checkpoint]) -> None:
    original, copy = pair
    theirs = AutoModelForCausalLM.from_pretrained(copy.path, attn_implementation="eager").eval()
    assert theirs.dtype == torch.float32
    assert theirs.generation_config.eos_token_id == list(original.config.eos_token_ids)
    token_ids = list(range(40, 110))
    expected = theirs(torch.tensor([token_ids])).logits[0].numpy()
    assert np.abs(logits(original, token_ids) - expected).max() < TOLERANCE * np.abs(expected).max()

    tokenizer = AutoTokenizer.from_pretrained(copy.path)
    assert [tokenizer.encode(text) for text in TEXTS] == [original.tokenizer.encode(text) for text in TEXTS]
    assert tokenizer.special_tokens_map.items() >= original.tokenizer.special_tokens.items()
    assert tokenizer.apply_chat_template(MESSAGES, tokenize=False) == render_chat(
        original.chat_template, original.tokenizer, MESSAGES, add_generation_prompt=False
    )


def test_one_file_as_the_safetensors_library_reads_it(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "m.gguf", "llama")
    done = convert_model(source, tmp_path / "copy")
    original = open_checkpoint(source)
    path = tmp_path / "copy" / "model.safetensors"
    loaded = load_file(path)
    assert {name: values.tobytes() for name, values in loaded.items()} == {
        name: dequantize(weight).tobytes() for name, weight in original.weights.items()
    }
    assert done == (type(done))(len(loaded), sum(values.nbytes for values in loaded.values()), original.fingerprint)
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {
            "format": "pt",
            "tiercel.fingerprint": original.fingerprint,
            "tiercel.content": fingerprint(open_checkpoint(tmp_path / "copy").weights),
        }
    assert int.from_bytes(path.read_bytes()[:8], "little") % 64 == 56


def test_one_tensor_in_memory_at_a_time(tmp_path: Path) -> None:
    """Six of them make up nearly all of the model."""
    big = {f"model.layers.{layer}.mlp.down_proj.weight": np.zeros((32, 64 << 10), np.float32) for layer in range(LAYERS)}
    big |= {
        f"model.layers.{i}.mlp.{n}_proj.weight": np.zeros((64 << 10, 32), np.float32) for n in ("up", "gate") for i in (0, 1)
    }
    metadata = gguf_metadata(llama__feed_forward_length=64 << 10)
    source = write_gguf(tmp_path / "m.gguf", metadata, gguf_tensors(hf_tensors() | big), format="Q8_0")
    one = 4 * 32 * (64 << 10)
    convert_model(write_tiny(tmp_path / "warm.gguf", "llama"), tmp_path / "warm")  # loads libraries
    tracemalloc.start()
    done = convert_model(source, tmp_path / "copy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert done.size > 6 * one
    assert peak < 1.7 * one


# -- what counts as a copy ----------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    convert_model(write_tiny(tmp_path / "m.gguf", "llama"), tmp_path / "copy")
    return tmp_path / "copy"


def own_and_stated(directory: Path) -> tuple[str, str]:
    checkpoint = open_checkpoint(directory)
    return fingerprint(checkpoint.weights), checkpoint.fingerprint


def rewrite(directory: Path, metadata: Mapping[str, str | None], **tensors: np.ndarray) -> None:
    """Saves the weights again with changes, by the library."""
    path = directory / "model.safetensors"
    with safe_open(path, "numpy") as file:
        kept = {**file.metadata(), **metadata}
    save_file({**load_file(path), **tensors}, path, metadata={key: text for key, text in kept.items() if text is not None})


def test_a_copy_of_the_copy_inherits(copy: Path) -> None:
    """By a plain copy of its bytes, or saved anew with its metadata; not where those are lost."""
    own, stated = own_and_stated(copy)
    assert stated == open_checkpoint(copy.parent / "m.gguf").fingerprint != own
    rewrite(copy, {})
    assert own_and_stated(copy) == (own, stated)
    rewrite(copy, {"tiercel.content": None})
    assert own_and_stated(copy) == (own, own)


def test_edited_weights_are_a_model_of_their_own(copy: Path) -> None:
    """Metadata left in place, one bit changed."""
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    own, stated = own_and_stated(copy)
    assert stated == own


@pytest.mark.parametrize("change", ["tiercel.fingerprint", "tiercel.content"])
@pytest.mark.parametrize("text", [None, "", "0" * 63, "../" * 21 + "x", "0" * 64 + "\n"])
def test_records_that_make_no_sense(copy: Path, change: str, text: str | None) -> None:
    rewrite(copy, {change: text})
    own, stated = own_and_stated(copy)
    assert stated == own


def test_shards_record_nothing(copy: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(copy)
    model.save_pretrained(copy, max_shard_size="40KB")
    assert (copy / "model.safetensors.index.json").exists()
    own, stated = own_and_stated(copy)
    assert stated == own


# -- sources and destinations -------------------------------------------------------------------------------------------------


def test_safetensors_need_no_conversion(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^source: .*model holds safetensors already"):
        convert_model(write_directory(tmp_path / "model"), tmp_path / "copy")
    assert os.listdir(tmp_path) == ["model"]


def test_an_earlier_conversion_is_replaced_if_that_is_asked_for(tmp_path: Path) -> None:
    first, second = write_tiny(tmp_path / "1.gguf", "llama"), write_tiny(tmp_path / "2.gguf", "qwen3")
    (tmp_path / "copy").mkdir()  # empty: as good as none
    convert_model(first, tmp_path / "copy")
    with pytest.raises(InvalidInput, match=r"^destination: .*copy holds a model already; --force replaces it"):
        convert_model(second, tmp_path / "copy")
    assert open_checkpoint(tmp_path / "copy").fingerprint == open_checkpoint(first).fingerprint
    convert_model(second, tmp_path / "copy", force=True)
    assert open_checkpoint(tmp_path / "copy").fingerprint == open_checkpoint(second).fingerprint
    assert sorted(os.listdir(tmp_path)) == ["1.gguf", "2.gguf", "copy"]


def test_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "model")
    convert_model(write_tiny(tmp_path / "m.gguf", "llama"), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["model"]


def test_nothing_else_is_ever_replaced(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "m.gguf", "llama")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    (other / "thesis.tex").write_text("precious")
    for destination, message in (
        (other, "holds thesis.tex, which no conversion wrote"),
        (source, "is a file; name a directory"),
        (tmp_path / "absent" / "copy", "there is no directory .*absent to make it in"),
    ):
        with pytest.raises(InvalidInput, match=message):
            convert_model(source, destination, force=True)
    assert (other / "thesis.tex").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["m.gguf", "other"]


TWICE = {"tokens": [*map(str, range(257)), "x", "x"], "token_type": None, "merges": ["1 2"]}


@pytest.mark.parametrize(
    ("tokenizer", "tensors", "message"),
    [
        ({"model": "bert"}, {}, "'bert' is not supported; supported are gpt2, llama"),
        (TWICE, {}, "cannot be converted: its vocabulary would read otherwise"),
        ({}, {"blk.0.attn_q.bias": np.zeros(32, np.float32)}, r"no place for model\.layers\.0\.self_attn\.q_proj\.bias"),
    ],
    ids=["tokenizer", "vocabulary", "tensor"],
)
def test_models_that_cannot_be_converted(
    tmp_path: Path, tokenizer: dict[str, object], tensors: dict[str, np.ndarray], message: str
) -> None:
    metadata = gguf_metadata(**{f"tokenizer__ggml__{key}": value for key, value in tokenizer.items()})
    source = write_gguf(tmp_path / "m.gguf", metadata, gguf_tensors(hf_tensors()) | tensors)
    with pytest.raises(ModelError, match=message):
        convert_model(source, tmp_path / "copy")
    assert os.listdir(tmp_path) == ["m.gguf"]


def test_formats_that_cannot_be_read(tmp_path: Path) -> None:
    """None is silently left out of the copy."""
    source = write_tiny_gguf(tmp_path / "m.gguf")
    content = source.read_bytes()
    entry = content.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight") + 4 + 2 * 8  # its format's number
    source.write_bytes(content[:entry] + (11).to_bytes(4, "little") + content[entry + 4 :])
    with pytest.raises(ModelError, match=r"mlp\.up_proj\.weight is stored as Q3_K"):
        convert_model(source, tmp_path / "copy")
    assert os.listdir(tmp_path) == ["m.gguf"]


# -- whatever goes wrong ------------------------------------------------------------------------------------------------------

CONVERT = [sys.executable, "-c", "from tiercel.cli.main import main; main()", "model", "convert"]


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "m.gguf", "llama")
    convert_model(write_tiny(tmp_path / "other.gguf", "qwen3"), tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}

    def at_most_50_kb_a_file() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = subprocess.run(
        [*CONVERT, source, tmp_path / "copy", "--force"], capture_output=True, text=True, preexec_fn=at_most_50_kb_a_file
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: cannot write {tmp_path / 'copy'}: File too large; it is as it was before\n"
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == ["copy", "m.gguf", "other.gguf"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ended_while_it_writes(tmp_path: Path, how: signal.Signals) -> None:
    """Half a gigabyte is on its way. No directory appears; what a killed process cannot remove lies beside it, hidden."""
    with subprocess.Popen([*CONVERT, "smollm2", tmp_path / "copy"], stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".copy.*/copy/model.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(how)
        process.communicate(timeout=60)
    left = os.listdir(tmp_path)
    for path in tmp_path.glob(".copy.*/copy/*"):
        path.unlink()
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "copy" not in left
    assert len(left) == (0 if how == signal.SIGINT else 1)


# -- the real model -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2_copy() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        convert_model(smollm2_path(), Path(folder, "smollm2"))
        yield Path(folder, "smollm2")


def test_smollm2_is_the_same_model(smollm2_copy: Path) -> None:
    original, copy = open_checkpoint(smollm2_path()), open_checkpoint(smollm2_copy)
    assert kv_namespace(copy) == kv_namespace(original)
    assert copy.config == original.config
    for text in TEXTS:
        assert copy.tokenizer.encode(text) == original.tokenizer.encode(text)


def test_smollm2_gives_the_same_tokens_here_and_in_transformers(smollm2_copy: Path) -> None:
    greedy = SamplingParams(temperature=0.0, max_tokens=12)
    models = llm(), LLM(str(smollm2_copy), kv_memory="64MiB")
    answers = [model.chat(MESSAGES[:1], greedy).samples[0].token_ids for model in models]
    theirs = AutoModelForCausalLM.from_pretrained(smollm2_copy)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_copy)
    prompt = tokenizer.apply_chat_template(MESSAGES[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    generated = theirs.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :].tolist()
    assert answers[0] == answers[1] == generated
    assert len(generated) == 12
