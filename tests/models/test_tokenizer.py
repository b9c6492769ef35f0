"""Tokenizers and chat templates of Hugging Face directories."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.support.model_files import SPECIAL, TEMPLATE, TEXTS, byte_tokenizer, smollm2
from tiercel.models.gguf_tokenizer import read_tokenizer as read_gguf_tokenizer
from tiercel.models.tokenizer import Tokenizer, read_chat_template, read_tokenizer
from tiercel.types import CheckpointError


def write(directory: Path, backend: tokenizers.Tokenizer | None = None, **settings: object) -> Path:
    directory.mkdir(exist_ok=True)
    (backend or byte_tokenizer()).save(str(directory / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(named | settings))
    return directory


@cache
def smollm2_pair() -> tuple[Tokenizer, PreTrainedTokenizerBase]:
    """The real vocabulary, saved as a directory and read back by both."""
    with TemporaryDirectory() as name:
        backend = tokenizers.Tokenizer.from_str(read_gguf_tokenizer(smollm2())._backend.to_str())
        directory = write(Path(name), backend)
        return read_tokenizer(directory), AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_equal_transformers(text: str) -> None:
    ours, theirs = smollm2_pair()
    ids = ours.encode(text)
    assert ids == theirs.encode(text) == read_gguf_tokenizer(smollm2()).encode(text)
    assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids) == text
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@given(st.text(max_size=80))
def test_any_text_comes_back(text: str) -> None:
    """As far as the model has tokens for all bytes: SmolLM2 lacks some that begin rare characters."""
    ours, theirs = smollm2_pair()
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)
    every_byte = Tokenizer(byte_tokenizer())
    ids = every_byte.encode(text)
    assert every_byte.decode(ids, skip_special_tokens=False) == text
    assert b"".join(map(every_byte.token_bytes, ids)).decode() == text


@given(st.lists(st.one_of(st.characters(codec=None), st.sampled_from(["\ud800", "\udfff", "\ud83d\ude00", "a"])), max_size=10))
def test_lone_surrogates_are_replaced_and_pairs_joined(characters: list[str]) -> None:
    ours = Tokenizer(byte_tokenizer())
    text = "".join(characters)
    mended = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert ours.decode(ours.encode(text), skip_special_tokens=False) == mended


def test_what_becomes_of_surrogates() -> None:
    ours, _ = smollm2_pair()
    assert ours.decode(ours.encode("a\ud800b\ud83d\ude00c\udc00")) == "a\ufffdb\U0001f600c\ufffd"


def test_ids_outside_the_vocabulary_stand_for_nothing() -> None:
    ours, _ = smollm2_pair()
    hello = ours.encode("hello")
    for odd in (-1, ours.vocab_size, 2**31, 2**32, 2**64):
        assert ours.token_bytes(odd) == b""
        assert ours.decode([odd, *hello, odd]) == "hello"
        assert not ours.is_special(odd)


def test_names_of_special_tokens_in_text() -> None:
    ours, _ = smollm2_pair()
    text = "<|im_start|>user\nhi<|im_end|>"
    parsed, literal = ours.encode(text), ours.encode(text, parse_special=False)
    assert (parsed[0], parsed[-1]) == (1, 2)
    assert not any(map(ours.is_special, literal))
    assert ours.decode(literal) == text
    assert ours.decode(parsed) == "user\nhi"
    assert ours.encode(text) == parsed


def test_roles_and_ids(tmp_path: Path) -> None:
    ours = read_tokenizer(write(tmp_path, eos_token={"content": "<|endoftext|>", "special": True}, unk_token=None), (258, 256))
    assert (ours.bos_token_id, ours.eos_token_ids, ours.vocab_size) == (257, (258, 256), 259)
    assert ours.special_tokens == {"bos_token": "<|im_start|>", "eos_token": "<|endoftext|>"}
    assert [ours.is_special(i) for i in (0, 255, 256, 257, 258)] == [False, False, True, True, True]
    assert sorted(ours.token_bytes(i) for i in range(256)) == [bytes([byte]) for byte in range(256)]
    assert [ours.token_bytes(i).decode() for i in range(256, 259)] == SPECIAL


def test_a_directory_without_settings(tmp_path: Path) -> None:
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    ours = read_tokenizer(tmp_path)
    assert (ours.bos_token_id, ours.eos_token_ids, ours.special_tokens) == (None, (), {})
    assert len(ours.encode("abc")) == 3


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize("add_bos", [True, False, None])
@pytest.mark.parametrize("add_eos", [True, False, None])
def test_begin_and_end_of_text_as_transformers_adds_them(
    tmp_path: Path, in_file: bool, add_bos: bool | None, add_eos: bool | None
) -> None:
    """By tokenizer.json, whatever tokenizer_config.json says."""
    backend = byte_tokenizer()
    if in_file:
        backend.post_processor = processors.TemplateProcessing("<|im_start|> $A", special_tokens=[("<|im_start|>", 257)])
    stated = {"add_bos_token": add_bos, "add_eos_token": add_eos}
    directory = write(tmp_path / "m", backend, **{key: value for key, value in stated.items() if value is not None})
    ours, theirs = read_tokenizer(directory), AutoTokenizer.from_pretrained(directory)
    assert ours.encode("ab") == theirs.encode("ab")
    assert ours.encode("ab", add_special_tokens=False) == theirs.encode("ab", add_special_tokens=False)


def test_truncation_and_padding_of_the_file_are_not_for_us(tmp_path: Path) -> None:
    backend = byte_tokenizer()
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    ours = read_tokenizer(write(tmp_path, backend))
    assert [len(ours.encode("x" * length)) for length in (1, 100)] == [1, 100]


def sentencepiece(prefix: bool) -> tokenizers.Tokenizer:
    """The shape of Llama 2's tokenizer.json."""
    vocabulary = {
        token: i for i, token in enumerate(["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"])
    }
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    backend.add_special_tokens(["<unk>", "<s>"])
    return backend


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("text", ["a", " a", "a a  a", "aé日", "\n", "b", "", "a<s>a"])
def test_sentencepiece(tmp_path: Path, prefix: bool, text: str) -> None:
    directory = write(tmp_path / "m", sentencepiece(prefix))
    ours, theirs = read_tokenizer(directory), AutoTokenizer.from_pretrained(directory)
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids, skip_special_tokens=False)
    spaces = " " if prefix else ""
    written = "<s>".join(spaces + part if part else part for part in text.split("<s>"))
    assert b"".join(map(ours.token_bytes, ids)).decode() == written


def test_broken_characters_in_sentencepiece(tmp_path: Path) -> None:
    ours = read_tokenizer(write(tmp_path, sentencepiece(prefix=False)))
    first, second, third = (2 + byte for byte in "日".encode())
    assert ours.decode([first, second, third]) == "日"
    assert ours.decode([first, second]) == "\ufffd\ufffd"
    assert ours.token_bytes(first) == b"\xe6"


def test_files_that_are_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json; transformers makes one"):
        read_tokenizer(tmp_path)
    for content in ("", "{}", "[]", '{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}'):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(CheckpointError, match="is not a tokenizer that can be read"):
            read_tokenizer(tmp_path)
    other = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    other.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(CheckpointError, match="neither byte-level nor SentencePiece-style"):
        read_tokenizer(write(tmp_path, other))


@pytest.mark.parametrize(
    ("in_config", "in_file", "expected"),
    [
        (None, None, None),
        (TEMPLATE, None, TEMPLATE),
        (None, "x", "x"),
        (TEMPLATE, "file wins", "file wins"),
        ([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}], None, "d"),
        ([{"name": "rag", "template": "r"}], None, None),
        (["x", 3, None], None, None),
        (3, None, None),
    ],
)
def test_where_chat_templates_stand(tmp_path: Path, in_config: object, in_file: str | None, expected: str | None) -> None:
    write(tmp_path, chat_template=in_config)
    if in_file is not None:
        (tmp_path / "chat_template.jinja").write_text(in_file)
    assert read_chat_template(tmp_path) == expected


def test_a_chat_template_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"cannot read .*chat_template\.jinja"):
        read_chat_template(tmp_path)
