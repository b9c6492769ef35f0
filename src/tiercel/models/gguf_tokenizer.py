"""A tokenizer from the metadata of a GGUF file: tokens, their types, and merges or scores.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What the values of `tokenizer.ggml.pre` stand for:
llama.cpp's vocabulary loader (src/llama-vocab.cpp), checked against the `tokenizer.json` of the models they name.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from tiercel.models.fields import Fields
from tiercel.models.gguf import GGUFFile
from tiercel.models.gguf_config import end_tokens
from tiercel.models.tokenizer import Tokenizer
from tiercel.types import CheckpointError

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # token types
_MAX_PIECE = 256  # characters of a SentencePiece token whose merges are recovered; real ones have at most 48


@dataclass(frozen=True)
class _Split:
    """How text is cut into words before merging. No pattern: GPT-2's own."""

    pattern: str | None = None
    single_digits: bool = False
    nfc: bool = False
    whole_words: bool = False  # a word that is a token needs no merges
    starts_with_bos: bool = False


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _TAIL
)

_SPLITS = {
    "default": _Split(),
    "gpt-2": _Split(),
    "smollm": _Split(single_digits=True),
    "llama3": _Split(_LLAMA3, whole_words=True, starts_with_bos=True),
    "llama-v3": _Split(_LLAMA3, whole_words=True, starts_with_bos=True),
    "llama-bpe": _Split(_LLAMA3, whole_words=True, starts_with_bos=True),
    "qwen2": _Split(_QWEN2, nfc=True),
    "deepseek-r1-qwen": _Split(_QWEN2, nfc=True),
    "tekken": _Split(_TEKKEN, whole_words=True, starts_with_bos=True),
}


def read_tokenizer(file: GGUFFile) -> Tokenizer:
    """The file's tokenizer. Raises CheckpointError."""
    fields = Fields(file.path.name, file.metadata)
    tokens = _strings(fields, "tokenizer.ggml.tokens")
    types = _token_types(fields, len(tokens))
    kind = fields.text("tokenizer.ggml.model")
    try:
        if kind == "gpt2":
            split = _split(fields)
            backend, bos_by_default = _byte_level(fields, tokens, split), split.starts_with_bos
        elif kind == "llama":
            backend, bos_by_default = _sentencepiece(fields, tokens, types), True
        else:
            raise fields.error("tokenizer.ggml.model", f"{kind[:80]!r} is not supported; supported are gpt2, llama")
        _add_whole_tokens(backend, tokens, types)
    except CheckpointError:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{file.path}: the tokenizer's tokens and merges do not fit together: {error}") from error

    bos, eos = (_token_id(fields, f"tokenizer.ggml.{role}_token_id", len(tokens)) for role in ("bos", "eos"))
    first = bos if fields.boolean("tokenizer.ggml.add_bos_token", bos_by_default) else None
    last = eos if fields.boolean("tokenizer.ggml.add_eos_token", False) else None
    _frame_with(backend, first, last)
    return Tokenizer(
        backend,
        vocab_size=len(tokens),
        bos_token_id=bos,
        eos_token_ids=end_tokens(fields, len(tokens)),
        special_tokens=_special_tokens(fields, tokens),
    )


def _split(fields: Fields) -> _Split:
    name = fields.text("tokenizer.ggml.pre", "default")
    if name not in _SPLITS:
        raise fields.error("tokenizer.ggml.pre", f"{name[:80]!r} is not supported; supported are {', '.join(_SPLITS)}")
    return _SPLITS[name]


def _byte_level(fields: Fields, tokens: list[str], split: _Split) -> Backend:
    """GPT-2's byte-level BPE: the file lists the merges."""
    merges = [_pair(merge) for merge in _strings(fields, "tokenizer.ggml.merges")]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocabulary, merges, ignore_merges=split.whole_words))
    if split.nfc:
        backend.normalizer = normalizers.NFC()
    steps: list[pre_tokenizers.PreTokenizer] = []
    if split.single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if split.pattern:
        steps.append(pre_tokenizers.Split(Regex(split.pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split.pattern is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(fields: Fields, tokens: list[str], types: list[int]) -> Backend:
    """SentencePiece's BPE: two neighbours merge if together they are a token, the best-scored token first."""
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    unknown = _token_id(fields, "tokenizer.ggml.unknown_token_id", len(tokens))
    backend = Backend(
        models.BPE(
            vocabulary,
            _recovered_merges(fields, tokens, types),
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefixed = fields.boolean("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefixed else spaces
    strip = [decoders.Strip(" ", 1, 0)] if prefixed else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend


def _recovered_merges(fields: Fields, tokens: list[str], types: list[int]) -> list[tuple[str, str]]:
    """The merges that scores imply: every cut of a normal token into two others, in the order of its score."""
    scores = fields.value("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or scores.dtype.kind != "f" or len(scores) != len(tokens):
        raise fields.error("tokenizer.ggml.scores", f"must hold a number for each of the {len(tokens)} tokens")
    normal = [i for i, kind in enumerate(types) if kind == _NORMAL and len(tokens[i]) <= _MAX_PIECE]
    pieces = frozenset(tokens[i] for i in normal)
    by_score = np.argsort(-scores[normal], kind="stable")
    return [pair for place in by_score for pair in _cuts(tokens[normal[place]], pieces)]


def _cuts(token: str, pieces: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Cuts of a token into two pieces, the longest left piece first, as merging from the left makes them."""
    for cut in range(len(token) - 1, 0, -1):
        if token[:cut] in pieces and token[cut:] in pieces:
            yield token[:cut], token[cut:]


def _add_whole_tokens(backend: Backend, tokens: list[str], types: list[int]) -> None:
    """Control tokens are found whole in a text and are special; user-defined ones are found whole and are text."""
    whole = [(token, kind) for token, kind in zip(tokens, types, strict=True) if token]
    special = [token for token, kind in whole if kind in (_CONTROL, _UNKNOWN)]
    plain = [token for token, kind in whole if kind == _USER_DEFINED]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    backend.add_tokens([AddedToken(token, normalized=False) for token in plain])


def _frame_with(backend: Backend, first: int | None, last: int | None) -> None:
    """Makes `add_special_tokens` put these ids, where given, before and after a text."""
    frame = {"first": first, "last": last}
    backend.post_processor = processors.TemplateProcessing(
        single=[*(["first"] if first is not None else []), "$A", *(["last"] if last is not None else [])],
        special_tokens=[
            {"id": name, "ids": [token_id], "tokens": [backend.id_to_token(token_id) or name]}
            for name, token_id in frame.items()
            if token_id is not None
        ],
    )


def _special_tokens(fields: Fields, tokens: list[str]) -> dict[str, str]:
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {role: _token_id(fields, f"tokenizer.ggml.{key}_token_id", len(tokens)) for role, key in roles.items()}
    return {role: tokens[token_id] for role, token_id in ids.items() if token_id is not None}


def _token_id(fields: Fields, key: str, count: int) -> int | None:
    return next(iter(fields.token_ids(key, count)), None)


def _token_types(fields: Fields, count: int) -> list[int]:
    types = fields.value("tokenizer.ggml.token_type")
    if types is None:
        return [_NORMAL] * count
    if not isinstance(types, np.ndarray) or types.dtype.kind not in "iu" or len(types) != count:
        raise fields.error("tokenizer.ggml.token_type", f"must hold a whole number for each of the {count} tokens")
    return [int(kind) for kind in types.tolist()]


def _strings(fields: Fields, key: str) -> list[str]:
    value = fields.value(key)
    if not isinstance(value, list) or not value:
        raise fields.error(key, "must be a list of texts")
    return value


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right
