"""Text to token ids and back, over the `tokenizers` library."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from tiercel.models.fields import Fields, read_fields
from tiercel.types import CheckpointError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


class Tokenizer:
    """Two families are known: byte-level BPE (GPT-2's alphabet of 256 printable characters stands for bytes), and
    SentencePiece-style BPE (`▁` stands for a space, `<0xNN>` for a byte).

    vocab_size: one more than the highest token id; counted from the library's tokens if not given.
    special_tokens: texts by role ("bos_token", "eos_token", ...), as chat templates refer to them.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        vocab_size: int | None = None,
        bos_token_id: int | None = None,
        eos_token_ids: tuple[int, ...] = (),
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._literal: tokenizers.Tokenizer | None = None
        self._added = backend.get_added_tokens_decoder()
        self._byte_level = _is_byte_level(backend)
        self._bytes: dict[int, bytes] = {}
        self.vocab_size = vocab_size or max(backend.get_vocab_size(), 1 + max(self._added, default=-1))
        self.bos_token_id = bos_token_id
        self.eos_token_ids = eos_token_ids
        self.special_tokens = dict(special_tokens or {})

    def encode(self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text. Lone surrogates, which no encoding can hold, count as U+FFFD.

        add_special_tokens: put begin-of-text where the model expects it. Rendered chats usually contain it already.
        parse_special: read the names of special tokens inside the text as those tokens, not as plain letters.
        """
        backend = self._backend if parse_special else self._literal_backend()
        try:
            return backend.encode(text, add_special_tokens=add_special_tokens).ids
        except (TypeError, UnicodeEncodeError):
            mended = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return backend.encode(mended, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of some tokens. Ids that stand for nothing are left out, incomplete characters become U+FFFD."""
        kept = [i for i in token_ids if not (skip_special_tokens and self.is_special(i))]
        if self._byte_level:
            return b"".join(map(self.token_bytes, kept)).decode("utf-8", "replace")
        return self._backend.decode([i for i in kept if 0 <= i < self.vocab_size], skip_special_tokens=False)

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes a token stands for in running text. Of an id that stands for nothing: none."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._find_bytes(token_id)
        return known

    def is_special(self, token_id: int) -> bool:
        """Whether a token is markup (begin of text, end of turn, ...) and no part of the text."""
        token = self._added.get(token_id)
        return token is not None and token.special

    def to_json(self) -> str:
        """The content of a `tokenizer.json`: all but the special tokens' roles, which have a file of their own."""
        return self._backend.to_str()

    def dump(self) -> tuple[dict[str, object], bytes]:
        """All there is to it, for `load_tokenizer`: JSON values, and the library's part in the form that loads fastest."""
        values: dict[str, object] = {
            "vocab_size": self.vocab_size,
            "bos_token_id": self.bos_token_id,
            "eos_token_ids": self.eos_token_ids,
            "special_tokens": self.special_tokens,
        }
        return values, _with_short_merges(self._backend.to_str()).encode()

    def _find_bytes(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        if token is None:
            return b""
        if self._byte_level:
            plain = token_id in self._added or any(character not in BYTE_OF for character in token)
            return token.encode() if plain else bytes(BYTE_OF[character] for character in token)
        if self.is_special(token_id):
            return token.encode()
        byte = _BYTE_TOKEN.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()

    def _literal_backend(self) -> tokenizers.Tokenizer:
        """A twin that takes names of special tokens for plain text; whether to is a setting of the whole library object."""
        if self._literal is None:
            twin = tokenizers.Tokenizer.from_str(self._backend.to_str())
            twin.encode_special_tokens = True
            self._literal = twin
        return self._literal


def load_tokenizer(values: Mapping[str, Any], backend: bytes) -> Tokenizer:
    """The tokenizer that `Tokenizer.dump` wrote. What it raises for anything else is not defined."""
    return Tokenizer(
        tokenizers.Tokenizer.from_buffer(backend),
        vocab_size=values["vocab_size"],
        bos_token_id=values["bos_token_id"],
        eos_token_ids=tuple(values["eos_token_ids"]),
        special_tokens=values["special_tokens"],
    )


def _with_short_merges(text: str) -> str:
    """A `tokenizer.json` with each merge as one text, as all were before tokens could hold spaces: read in half the time."""
    content = json.loads(text)
    merges = content["model"].get("merges", [])
    if any(" " in part or part.startswith("#version") for pair in merges for part in pair):
        return text
    content["model"]["merges"] = [" ".join(pair) for pair in merges]
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def read_tokenizer(directory: Path, eos_token_ids: tuple[int, ...] = ()) -> Tokenizer:
    """The tokenizer of a Hugging Face model directory: `tokenizer.json`, and `tokenizer_config.json` for special tokens' roles.

    Whether texts begin with a begin-of-text token is written in the former; `add_bos_token` in the latter has no say.
    eos_token_ids: end tokens that the model's settings name; the tokenizer's own is added to them: of fine-tuned models
    often the only one that ends a turn. Raises CheckpointError.
    """
    path = directory / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(
            f"{directory} has no tokenizer.json; transformers makes one: "
            "AutoTokenizer.from_pretrained(directory).save_pretrained(directory)"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path} is not a tokenizer that can be read: {error}") from error
    settings = read_fields(directory / "tokenizer_config.json", required=False)
    special_tokens = {role: text for role in _SPECIAL_NAMES if (text := _special_text(settings, role)) is not None}
    ids = {role: backend.token_to_id(text) for role, text in special_tokens.items()}
    bos, eos = ids.get("bos_token"), ids.get("eos_token")
    ends = dict.fromkeys(token_id for token_id in (*eos_token_ids, eos) if token_id is not None)
    return Tokenizer(backend, bos_token_id=bos, eos_token_ids=tuple(ends), special_tokens=special_tokens)


def read_chat_template(directory: Path) -> str | None:
    """The chat template of a model directory: `chat_template.jinja`, or the default one in `tokenizer_config.json`."""
    path = directory / "chat_template.jinja"
    if path.exists():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error
    template = read_fields(directory / "tokenizer_config.json", required=False).value("chat_template")
    if isinstance(template, list):  # several, by name
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[0].get("template") if named else None
    return template if isinstance(template, str) else None


def _special_text(settings: Fields, role: str) -> str | None:
    """A special token is given as its text or as an object with its content."""
    value = settings.value(role)
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _is_byte_level(backend: tokenizers.Tokenizer) -> bool:
    """Reads the family off the decoder."""
    state = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else {}
    kinds = {step.get("type") for step in state.get("decoders", [state])}
    if "ByteLevel" in kinds:
        return True
    if kinds & {"ByteFallback", "Metaspace"}:
        return False
    raise CheckpointError("the tokenizer is neither byte-level nor SentencePiece-style BPE, which are the kinds supported")


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-ins for bytes (https://github.com/openai/gpt-2/blob/master/src/encoder.py): visible Latin-1
    characters for themselves, the others, in order, for those from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(0x100 + place) for place, byte in enumerate(hidden)}


CHARACTER_OF = _byte_alphabet()
BYTE_OF = {character: byte for byte, character in CHARACTER_OF.items()}
