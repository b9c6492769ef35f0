"""What formats of weights and of KV cost in quality: next-token distributions on a text, held against those of a baseline.

The text is cut into windows, and each is read from an empty cache as an engine computes a prompt, in chunks. All read the same
text, whatever they would have said themselves, so that a difference at one token does not move all later ones; and all are
compared window by window, so that what makes one window harder than another is no part of the difference.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tiercel.bench.distributions import Truth
from tiercel.bench.measure import Say
from tiercel.bench.reading import Network, Reading
from tiercel.bench.report import Row
from tiercel.config import EngineConfig
from tiercel.types import InvalidInput

Int32 = npt.NDArray[np.int32]
Float64 = npt.NDArray[np.float64]
CHUNK = 256  # rows of a step: of each there is a whole vocabulary of logits
FEWEST = 5  # windows that an interval is given for
CONFIDENCE = 0.95


class Formats(NamedTuple):
    """What a model's weights and its KV are kept in."""

    weights: str
    kv: str

    def __str__(self) -> str:
        return f"{self.weights} weights, {self.kv} KV"

    def settings(self, config: EngineConfig) -> EngineConfig:
        backend = "reference" if self.weights == "float32" else "cpu"
        return config.model_copy(update={"backend": backend, "dtype": self.weights, "kv_dtype": self.kv})


FLOAT32 = Formats("float32", "float32")  # on the reference back end
BF16 = Formats("bf16", "bfloat16")


class Change(NamedTuple):
    """A relative difference of perplexity and where it lies with 95 % confidence; None where the windows are too few to say."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, eq=False)
class Quality:
    """How one choice of formats fared, [windows, tokens] each. same: whether the likeliest next token is the baseline's;
    divergences: KL(baseline, this) in nats; surprises: -log probability of the text's own next token. kv_bytes: per token."""

    same: npt.NDArray[np.bool_]
    divergences: Float64
    surprises: Float64
    kv_bytes: int = 0

    @classmethod
    def empty(cls, windows: int, tokens: int, kv_bytes: int) -> "Quality":
        shape = windows, tokens
        return cls(np.zeros(shape, np.bool_), np.zeros(shape), np.zeros(shape), kv_bytes)

    @property
    def agreement(self) -> float:
        """Share of tokens at which greedy decoding would have gone on alike."""
        return float(self.same.mean())

    @property
    def divergence(self) -> float:
        """Mean KL divergence, nats."""
        return float(self.divergences.mean())

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.surprises.mean()))

    def change(self, baseline: "Quality") -> Change:
        """Perplexity against the baseline's: both read the same windows, and what is averaged is the difference of each window.

        The interval takes the windows' differences as independent of each other, and their mean as distributed by Student's t.
        """
        differences = (self.surprises - baseline.surprises).mean(axis=1)
        mean, count = differences.mean(), len(differences)
        if count < FEWEST:
            return Change(float(np.expm1(mean)), None, None)
        margin = student_t(count - 1) * differences.std(ddof=1) / np.sqrt(count)
        low, value, high = np.expm1([mean - margin, mean, mean + margin]).tolist()
        return Change(value, low, high)


def student_t(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches to either side; freedom: degrees of it, 4 or more.

    The first terms of Fisher's expansion (Abramowitz and Stegun, 26.7.5), within 0.01 of the true value.
    """
    z: float = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + float(sum(term / freedom**power for power, term in enumerate(terms, 1)))


def windows_of(token_ids: Sequence[int], window: int) -> Int32:
    """[windows, window]: the text in whole windows, what is left at its end not used; a text shorter than one is a window.

    Raises InvalidInput for a text too short to say anything.
    """
    if len(token_ids) < 2:
        raise InvalidInput("text", "has no token after the first")
    count = max(1, len(token_ids) // window)
    return np.array(token_ids[: count * window], np.int32).reshape(count, -1)


def measure_quality(config: EngineConfig, formats: Iterable[Formats], windows: Int32, say: Say) -> dict[Formats, Quality]:
    """formats: the first is the baseline. Raises InvalidInput for windows longer than the model's context, and what building
    an engine raises."""
    formats = list(dict.fromkeys(formats))
    count, length = windows.shape
    networks: dict[str, Network] = {}
    for each in formats:
        if each.weights not in networks:
            say(f"loading {each.weights} weights")
            networks[each.weights] = Network(each.settings(config))
    model = networks[formats[0].weights].checkpoint.config
    if length > model.max_position:
        raise InvalidInput("window", f"the model was made for {model.max_position:,} tokens, not {length:,}")
    readings = {each: Reading(networks[each.weights], each.settings(config), length) for each in formats}
    qualities = {each: Quality.empty(count, length - 1, reading.token_bytes) for each, reading in readings.items()}
    truth = Truth(min(CHUNK, length - 1), model.vocab_size)
    for number, window in enumerate(windows):
        for reading in readings.values():
            reading.begin()
        for start in range(0, length - 1, CHUNK):
            say(f"window {number + 1:,} of {count:,}, token {start:,} of {length:,}")
            part = slice(start, min(start + CHUNK, length - 1))
            for each, reading in readings.items():
                logits = reading.read(window[part])
                if each == formats[0]:
                    truth.become(logits)
                compared = truth.compare(logits, window[part.start + 1 : part.stop + 1])
                quality = qualities[each]
                quality.same[number, part] = compared.same
                quality.divergences[number, part] = compared.divergences
                quality.surprises[number, part] = compared.surprises
    return qualities


def quality_rows(qualities: Mapping[Formats, Quality]) -> list[Row]:
    """The baseline is the first, and has no change. Bytes are those of KV; at least, at most: the change's 95 % interval."""
    baseline = next(iter(qualities.values()))
    return [_row(formats, quality, baseline) for formats, quality in qualities.items()]


def _row(formats: Formats, quality: Quality, baseline: Quality) -> Row:
    change = quality.change(baseline) if quality is not baseline else Change(0.0, None, None)
    low, high = (None if bound is None else 100 * bound for bound in (change.low, change.high))
    return {
        "weights": formats.weights,
        "KV": formats.kv,
        "bytes a token": quality.kv_bytes,
        "perplexity": quality.perplexity,
        "change, %": 100 * change.value,
        "at least": low,
        "at most": high,
        "mean KL, nats": quality.divergence,
        "same top, %": 100 * quality.agreement,
    }
