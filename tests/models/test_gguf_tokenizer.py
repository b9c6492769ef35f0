"""Tokenizers out of GGUF files against those that transformers builds."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer, TokenizersBackend

from tests.support.model_files import TEXTS, gemma_path, gguf_metadata, smollm2, smollm2_path, write_gguf
from tiercel.models.gguf import GGUFFile, read_gguf
from tiercel.models.gguf_tokenizer import read_tokenizer
from tiercel.models.tokenizer import Tokenizer
from tiercel.types import CheckpointError

CORPUS = [
    "The quick brown fox jumps over the lazy dog. " * 3,
    "def main(argument: int) -> None:\n    return [argument for _ in range(1234567890)]\n\n",
    "  indented   text\twith\ttabs, don't you'll THEY'RE\r\n",
    "naïve café façade Zürich Ελληνικά русский 日本語 العربية हिन्दी",
    "1234 5678 90 3.14159 2024-01-02",
] * 20


def from_transformers(path: Path) -> PreTrainedTokenizerBase:
    return TokenizersBackend.from_pretrained(path.parent, gguf_file=path.name)


@cache
def ours_smollm2() -> Tokenizer:
    return read_tokenizer(smollm2())


@pytest.fixture(scope="module")
def theirs_smollm2() -> PreTrainedTokenizerBase:
    """transformers cuts this model's texts as GPT-2 would; the model's own tokenizer.json cuts digits apart first."""
    theirs = from_transformers(smollm2_path())
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return theirs


@pytest.fixture(scope="module")
def ours_gemma() -> Tokenizer:
    return read_tokenizer(read_gguf(gemma_path()))


@pytest.fixture(scope="module")
def theirs_gemma() -> PreTrainedTokenizerBase:
    return from_transformers(gemma_path())


def assert_same(ours: Tokenizer, theirs: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Equal ids both ways. Returns them."""
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
    for skip in (True, False):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    return ids


@pytest.mark.parametrize("text", TEXTS)
def test_smollm2(theirs_smollm2: PreTrainedTokenizerBase, text: str) -> None:
    ids = assert_same(ours_smollm2(), theirs_smollm2, text)
    assert ours_smollm2().decode(ids, skip_special_tokens=False) == text


@given(st.text(max_size=60))
def test_smollm2_on_any_text(theirs_smollm2: PreTrainedTokenizerBase, text: str) -> None:
    assert_same(ours_smollm2(), theirs_smollm2, text)


@given(st.lists(st.integers(0, 49_151), max_size=20))
def test_smollm2_on_any_ids(theirs_smollm2: PreTrainedTokenizerBase, ids: list[int]) -> None:
    """Ids in any order make broken characters, too."""
    ours = ours_smollm2()
    assert ours.decode(ids) == theirs_smollm2.decode(ids, skip_special_tokens=True)
    text = ours.decode(ids, skip_special_tokens=False)
    assert text == theirs_smollm2.decode(ids, skip_special_tokens=False)
    assert text == b"".join(map(ours.token_bytes, ids)).decode("utf-8", "replace")


def test_smollm2_vocabulary(theirs_smollm2: PreTrainedTokenizerBase) -> None:
    ours = ours_smollm2()
    assert ours.vocab_size == len(theirs_smollm2) == 49_152
    assert (ours.bos_token_id, ours.eos_token_ids) == (1, (2, 0))
    assert ours.special_tokens == theirs_smollm2.special_tokens_map
    special = {i for i in range(ours.vocab_size) if ours.is_special(i)}
    assert special == {i for i, token in theirs_smollm2.added_tokens_decoder.items() if token.special}
    assert {1, 2} < special


def test_digits_stand_alone() -> None:
    ours = ours_smollm2()
    assert [ours.token_bytes(i) for i in ours.encode("in  2024")] == [b"in", b"  ", b"2", b"0", b"2", b"4"]


@pytest.mark.parametrize("text", TEXTS)
def test_gemma(ours_gemma: Tokenizer, theirs_gemma: PreTrainedTokenizerBase, text: str) -> None:
    ids = assert_same(ours_gemma, theirs_gemma, text)
    assert ids[0] == ours_gemma.bos_token_id == 2
    assert b"".join(map(ours_gemma.token_bytes, ids[1:])).decode() == text


@given(st.text(max_size=40))
def test_gemma_on_any_text(ours_gemma: Tokenizer, theirs_gemma: PreTrainedTokenizerBase, text: str) -> None:
    ids = assert_same(ours_gemma, theirs_gemma, text)
    assert b"".join(map(ours_gemma.token_bytes, ids[1:])).decode() == text.replace("▁", " ")


def test_gemma_vocabulary(ours_gemma: Tokenizer) -> None:
    assert ours_gemma.vocab_size == 262_144
    assert ours_gemma.eos_token_ids == (1, 106)
    assert ours_gemma.special_tokens == {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    assert [ours_gemma.token_bytes(i) for i in (2, 107, 108, 138, 248, 506)] == [
        b"<bos>",
        b"\n",
        b"\n\n",
        b"  ",
        b"\n",
        b" the",
    ]
    assert [ours_gemma.is_special(i) for i in (2, 106, 107, 138, 248, 506)] == [True, True, False, False, False, False]


# -- vocabularies made for the test -------------------------------------------------------------------------------------------


@cache
def trained() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level BPE trained on a few lines, cut at spaces only so that every split can show."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "merged_with_next"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(backend.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].__getitem__), [" ".join(merge) for merge in model["merges"]]


def write_byte_level(path: Path, pre: str | None, architecture: str = "llama", **changes: object) -> Path:
    tokens, merges = trained()
    count = len(tokens)
    named = {
        "tokens": [*tokens, "<|begin|>", "<|end|>", "<think>", "é«x»"],
        "token_type": [1] * count + [3, 3, 4, 4],
        "merges": merges,
        "bos_token_id": count,
        "eos_token_id": count + 1,
        "pre": pre,
        **changes,
    }
    return write_gguf(path, gguf_metadata(**{f"tokenizer__ggml__{key}": value for key, value in named.items()}), {})


def mixed_text() -> st.SearchStrategy[str]:
    """Text in which words, digits, spaces, contractions, combining characters and added tokens meet."""
    piece = st.sampled_from(
        [
            " ",
            "  ",
            "\n",
            "\r\n",
            "\t",
            "1",
            "234",
            "the",
            "The",
            "fox",
            "'s",
            "'RE",
            "é",
            "e\u0301",
            "日",
            "<think>",
            "<|end|>",
            "/",
            "!?",
        ]
    )
    return st.lists(piece | st.characters(codec="utf-8"), max_size=25).map("".join)


@pytest.fixture(scope="module", params=["gpt-2", "default", None, "llama-bpe", "llama3", "tekken"])
def byte_level_pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, PreTrainedTokenizerBase]:
    path = write_byte_level(tmp_path_factory.mktemp("pre") / "m.gguf", request.param, add_bos_token=True)
    theirs = from_transformers(path)
    if request.param in ("llama-bpe", "llama3", "tekken"):  # as in these models' tokenizer.json, and in llama.cpp
        theirs.backend_tokenizer.model.ignore_merges = True
    return read_tokenizer(read_gguf(path)), theirs


@given(text=mixed_text())
def test_splits_of_byte_level_models(byte_level_pair: tuple[Tokenizer, PreTrainedTokenizerBase], text: str) -> None:
    ours, theirs = byte_level_pair
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ours.decode(ids[1:], skip_special_tokens=False) == text


@given(text=mixed_text())
def test_qwen2_composes_characters(text: str) -> None:
    """As Qwen's own tokenizer does, which GGUF files do not mention."""
    ours, theirs = qwen2_pair()
    assert ours.encode(text) == theirs.encode(text)


@cache
def qwen2_pair() -> tuple[Tokenizer, Qwen2Tokenizer]:
    with TemporaryDirectory() as directory:
        file = read_gguf(write_byte_level(Path(directory) / "m.gguf", "qwen2"))
    ours = read_tokenizer(file)
    tokens = file.metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in file.metadata["tokenizer.ggml.merges"]]
    theirs = Qwen2Tokenizer({token: i for i, token in enumerate(tokens)}, merges, "<|end|>", "<|begin|>", "<|end|>", "<|end|>")
    theirs.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "é«x»")])
    return ours, theirs


def test_added_tokens_stand_for_their_own_text(tmp_path: Path) -> None:
    """Also if their letters are those that stand for other bytes."""
    ours = read_tokenizer(read_gguf(write_byte_level(tmp_path / "m.gguf", "gpt-2")))
    *_, think, odd = range(ours.vocab_size)
    assert ours.encode("a<think>é«x»") == [*ours.encode("a"), think, odd]
    assert [ours.token_bytes(think), ours.token_bytes(odd)] == [b"<think>", "é«x»".encode()]
    assert (ours.is_special(think), ours.is_special(odd - 2)) == (False, True)
    assert ours.decode([think, odd]) == "<think>é«x»"


@pytest.mark.parametrize(
    ("pre", "changes", "first", "last"),
    [
        ("gpt-2", {}, False, False),
        ("llama-bpe", {}, True, False),
        ("tekken", {}, True, False),
        ("llama-bpe", {"add_bos_token": False}, False, False),
        ("qwen2", {"add_bos_token": True, "add_eos_token": True}, True, True),
        ("llama-bpe", {"bos_token_id": None}, False, False),
    ],
)
def test_begin_and_end_of_text(tmp_path: Path, pre: str, changes: dict[str, object], first: bool, last: bool) -> None:
    ours = read_tokenizer(read_gguf(write_byte_level(tmp_path / "m.gguf", pre, **changes)))
    plain = ours.encode("the fox", add_special_tokens=False)
    bos, eos = ours.vocab_size - 4, ours.vocab_size - 3
    assert ours.encode("the fox") == [bos] * first + plain + [eos] * last


def write_sentencepiece(path: Path, **changes: object) -> Path:
    """A small vocabulary as SentencePiece makes it: special tokens, bytes, pieces by falling score."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, show_progress=False))
    vocabulary = backend.get_vocab()
    pieces = sorted(vocabulary, key=lambda piece: (len(piece) == 1, vocabulary[piece]))  # single characters last, as there
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, "[INST]", "\n\n"]
    named = {
        "model": "llama",
        "pre": None,
        "merges": None,
        "tokens": tokens,
        "scores": [0.0] * 259 + [-float(i) for i in range(len(pieces))] + [0.0, 0.0],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces) + [3, 4],
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }
    return write_gguf(path, gguf_metadata(**{f"tokenizer__ggml__{key}": value for key, value in named.items()}), {})


@pytest.fixture(scope="module", params=[True, False, None], ids=["space added", "no space added", "not said"])
def sentencepiece_pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, PreTrainedTokenizerBase, bool]:
    path = write_sentencepiece(tmp_path_factory.mktemp("spm") / "m.gguf", add_space_prefix=request.param)
    theirs = from_transformers(path)
    if request.param is False:
        theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    return read_tokenizer(read_gguf(path)), theirs, request.param is not False


@given(
    text=st.lists(
        st.sampled_from(["the", " fox", "\n\n", "  ", "1234", "é", "日", "\x00", "'s"]) | st.characters(codec="utf-8"),
        max_size=20,
    )
)
def test_sentencepiece(sentencepiece_pair: tuple[Tokenizer, PreTrainedTokenizerBase, bool], text: list[str]) -> None:
    """Texts without added tokens and not starting with a space: transformers adds the space differently there."""
    ours, theirs, prefixed = sentencepiece_pair
    joined = "".join(text).replace("\n", "").lstrip(" ▁")
    ids = ours.encode(joined)
    assert ids == theirs.encode(joined)
    assert ids[0] == 1
    running = b"".join(map(ours.token_bytes, ids[1:])).decode()
    assert running == (" " if prefixed and joined else "") + joined.replace("▁", " ")
    assert ours.decode(ids) == joined.replace("▁", " ")


def test_sentencepiece_adds_the_space_as_llama_cpp_does(tmp_path: Path) -> None:
    """Before every stretch of text, whatever it starts with; user-defined tokens stay whole."""
    ours = read_tokenizer(read_gguf(write_sentencepiece(tmp_path / "m.gguf")))
    inst = ours.vocab_size - 2

    def running(text: str) -> list[bytes]:
        return [ours.token_bytes(i) for i in ours.encode(text, add_special_tokens=False)]

    assert b"".join(running(" the")) == b"  the"
    assert running("[INST]the[INST]") == [b"[INST]", b" the", b"[INST]"]
    assert ours.encode("\n\n", add_special_tokens=False) == [inst + 1]
    assert ours.is_special(inst)
    assert not ours.is_special(inst + 1)


def test_sentencepiece_merges_best_scores_first(tmp_path: Path) -> None:
    """`abc` is cut by scores, not by the order of tokens, and not greedily from the left."""
    for scores, expected in (([-1.0, -2.0], [b"ab", b"c"]), ([-2.0, -1.0], [b"a", b"bc"])):
        path = write_sentencepiece(
            tmp_path / "m.gguf",
            tokens=["<unk>", "a", "b", "c", "ab", "bc"],
            scores=[0.0, -9.0, -9.0, -9.0, *scores],
            token_type=[2, 1, 1, 1, 1, 1],
            add_space_prefix=False,
            add_bos_token=False,
            bos_token_id=None,
            eos_token_id=None,
        )
        ours = read_tokenizer(read_gguf(path))
        assert [ours.token_bytes(i) for i in ours.encode("abc")] == expected


WRONG: list[tuple[dict[str, object], str]] = [
    ({"model": "bert"}, "tokenizer.ggml.model 'bert' is not supported; supported are gpt2, llama"),
    ({"model": None}, "tokenizer.ggml.model is missing"),
    ({"pre": "klingon"}, "tokenizer.ggml.pre 'klingon' is not supported; supported are default, gpt-2, smollm"),
    ({"tokens": None}, "tokenizer.ggml.tokens must be a list of texts"),
    ({"tokens": [1, 2]}, "tokenizer.ggml.tokens must be a list of texts"),
    ({"token_type": [1, 2]}, "token_type must hold a whole number for each of the"),
    ({"token_type": ["x"]}, "token_type"),
    ({"merges": None}, "tokenizer.ggml.merges must be a list of texts"),
    ({"merges": ["no such"]}, "do not fit together"),
    ({"merges": ["nospace"]}, "do not fit together"),
    ({"bos_token_id": 100_000}, "bos_token_id must hold token ids below"),
    ({"add_bos_token": "yes"}, "add_bos_token must be true or false"),
    ({"model": "llama"}, "scores must hold a number for each of the"),
    ({"model": "llama", "scores": [0.5]}, "scores must hold a number for each of the"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[f"{message[:40]}-{i}" for i, (_, message) in enumerate(WRONG)])
def test_wrong_metadata_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = write_byte_level(tmp_path / "m.gguf", **{"pre": "gpt-2", **changes})
    with pytest.raises(CheckpointError, match=message):
        read_tokenizer(read_gguf(path))


@given(
    tokens=st.lists(st.text(max_size=4), max_size=8),
    types=st.lists(st.integers(-1, 7), max_size=8),
    merges=st.lists(st.text(max_size=5), max_size=4),
    kind=st.sampled_from(["gpt2", "llama"]),
    ids=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_any_vocabulary_is_a_tokenizer_or_an_error(
    tokens: list[str], types: list[int], merges: list[str], kind: str, ids: tuple[int, int]
) -> None:
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array((types + [1] * 8)[: len(tokens)]),
        "tokenizer.ggml.scores": np.linspace(0, -1, len(tokens)),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": ids[0],
        "tokenizer.ggml.unknown_token_id": ids[1],
    }
    try:
        tokenizer = read_tokenizer(GGUFFile(Path("m.gguf"), metadata, {}))
    except CheckpointError:
        return
    encoded = tokenizer.encode("ab é<\x00>" + "".join(tokens))
    assert all(0 <= token_id < tokenizer.vocab_size for token_id in encoded)
    assert isinstance(tokenizer.decode(encoded), str)
    assert len(b"".join(map(tokenizer.token_bytes, range(tokenizer.vocab_size)))) >= 0
