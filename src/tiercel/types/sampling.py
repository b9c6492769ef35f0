"""What a user may ask of sampling, checked where it is made."""

from collections.abc import Sequence

import msgspec

from tiercel.types.errors import InvalidInput
from tiercel.types.structured import StructuredOutput
from tiercel.types.text import check_text, shown

MAX_LOGPROBS = 20
MAX_SAMPLES = 128
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 1024
MAX_TOKENS = 2**31 - 1
MAX_TOKEN_ID = 2**31 - 1


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one request. Defaults sample plainly from the model's distribution; temperature 0 is greedy.

    `stop` may also be given as one string, `stop` and `stop_token_ids` as any sequence. Raises InvalidInput naming the field.
    """

    n: int = 1
    max_tokens: int | None = 16  # None = as many as the context holds
    min_tokens: int = 0  # end-of-text and stop conditions are held back until then
    temperature: float = 1.0
    top_k: int = 0  # 0 = all
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and output (arXiv:1909.05858)
    presence_penalty: float = 0.0  # over the output
    frequency_penalty: float = 0.0  # over the output
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None  # None = none; k = of the chosen token and of the k most likely
    logit_bias: dict[int, float] | None = None
    skip_special_tokens: bool = True
    structured: StructuredOutput | None = None

    def __post_init__(self) -> None:
        self._check_lengths()
        self._check_distribution()
        self._check_stops()
        for name in ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens"):
            _boolean(name, getattr(self, name))
        if self.logprobs is not None:
            _integer("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if self.structured is not None and not isinstance(self.structured, StructuredOutput):
            raise InvalidInput("structured", f"must be a StructuredOutput, got {shown(self.structured)}")

    def _check_lengths(self) -> None:
        _integer("n", self.n, 1, MAX_SAMPLES)
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, 1, MAX_TOKENS)
        _integer("min_tokens", self.min_tokens, 0, MAX_TOKENS)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidInput("min_tokens", f"must be at most max_tokens ({self.max_tokens}), got {self.min_tokens}")

    def _check_distribution(self) -> None:
        _real("temperature", self.temperature, 0.0, 100.0)
        _integer("top_k", self.top_k, 0, MAX_TOKEN_ID)
        _real("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise InvalidInput("top_p", "must be above 0; use temperature 0 for greedy decoding")
        _real("min_p", self.min_p, 0.0, 1.0)
        _real("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _real("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _real("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.seed is not None:
            _integer("seed", self.seed, -(2**63), 2**64 - 1)
        if self.logit_bias is not None and not isinstance(self.logit_bias, dict):
            raise InvalidInput("logit_bias", f"must map token ids to numbers, got {shown(self.logit_bias)}")
        for token_id, bias in (self.logit_bias or {}).items():
            _integer("logit_bias", token_id, 0, MAX_TOKEN_ID)
            _real("logit_bias", bias, -100.0, 100.0)

    def _check_stops(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else _sequence("stop", self.stop)
        if len(stop) > MAX_STOP_STRINGS:
            raise InvalidInput("stop", f"at most {MAX_STOP_STRINGS} strings, got {len(stop)}")
        for text in stop:
            check_text("stop", text, MAX_STOP_CHARACTERS)
        stop_token_ids = _sequence("stop_token_ids", self.stop_token_ids)
        for token_id in stop_token_ids:
            _integer("stop_token_ids", token_id, 0, MAX_TOKEN_ID)
        msgspec.structs.force_setattr(self, "stop", stop)
        msgspec.structs.force_setattr(self, "stop_token_ids", stop_token_ids)


def _integer(field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(field, f"must be an integer, got {shown(value)}")
    if not low <= value <= high:
        raise InvalidInput(field, f"must be between {low} and {high}, got {shown(value)}")


def _real(field: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(field, f"must be a number, got {shown(value)}")
    if not low <= value <= high:  # false for NaN too
        raise InvalidInput(field, f"must be between {low:g} and {high:g}, got {shown(value)}")


def _boolean(field: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidInput(field, f"must be true or false, got {shown(value)}")


def _sequence(field: str, value: object) -> tuple[object, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidInput(field, f"must be a list, got {shown(value)}")
    return tuple(value)
