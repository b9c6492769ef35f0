"""Text to token ids and back."""

from collections.abc import Sequence


class Tokenizer:
    """(contract; implementation under way)"""

    vocab_size: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes a token stands for in running text."""

    def is_special(self, token_id: int) -> bool: ...
