"""Sampling against its definition, written out plainly, and against known distributions."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.ops.philox import philox4x32
from tiercel.ops.sampling import sample
from tiercel.types import SamplingBatch

# -- building batches -------------------------------------------------------------------------------------------------------


def batch(samples, *, prompt=None, output=None, mask=None, bias=None, **columns):
    """A SamplingBatch; every column is one value for all samples or a list, and defaults to "off"."""
    kinds = {
        "rows": ("int32", range(samples)),
        "temperature": ("float32", 1.0),
        "top_k": ("int32", 0),
        "top_p": ("float32", 1.0),
        "min_p": ("float32", 0.0),
        "repetition_penalty": ("float32", 1.0),
        "presence_penalty": ("float32", 0.0),
        "frequency_penalty": ("float32", 0.0),
        "seed": ("uint64", 0),
        "sample_index": ("int32", 0),
        "output_position": ("int32", 0),
        "num_logprobs": ("int32", -1),
    }
    assert columns.keys() <= kinds.keys()
    arrays = {
        name: np.broadcast_to(np.array(columns.get(name, default), dtype=kind), samples).copy()
        for name, (kind, default) in kinds.items()
    }
    return SamplingBatch(
        **arrays,
        prompt_tokens=tuple(prompt) if prompt is not None else (None,) * samples,
        output_tokens=tuple(output) if output is not None else (None,) * samples,
        logits_mask=mask,
        logit_bias=tuple(bias) if bias is not None else None,
    )


def only(sampling, i):
    """Sample i in a batch of its own."""
    cut = {}
    for field in dataclasses.fields(sampling):
        value = getattr(sampling, field.name)
        cut[field.name] = None if value is None else value[i : i + 1]
    return SamplingBatch(**cut)


def mask_words(allowed):
    """uint32 words of rows of booleans [samples, vocab]."""
    samples, vocab = allowed.shape
    words = np.zeros((samples, -(-vocab // 32)), dtype=np.uint32)
    for i, token in np.argwhere(allowed):
        words[i, token // 32] |= np.uint32(1 << (token % 32))
    return words


def ints(*values):
    return np.array(values, dtype=np.int32)


# -- the definition, plainly ------------------------------------------------------------------------------------------------


def plain_philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b % 2**32, a >> 32 ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def plain_readable(x):
    largest = np.finfo(np.float32).max
    return [np.float32(-np.inf) if np.isnan(v) else min(v, largest) for v in x]


def plain_adjusted(logits, s, i):
    x = plain_readable(logits)
    prompt, output = ([] if ids is None else ids.tolist() for ids in (s.prompt_tokens[i], s.output_tokens[i]))
    for token in set(prompt + output):
        r = s.repetition_penalty[i]
        x[token] = x[token] / r if x[token] > 0 else x[token] * r
    for token in set(output):
        x[token] = x[token] - (s.frequency_penalty[i] * np.float32(output.count(token)) + s.presence_penalty[i])
    if s.logit_bias is not None and s.logit_bias[i] is not None:
        for token, value in zip(*s.logit_bias[i], strict=True):
            x[token] = x[token] + value
    for token in range(len(x)):
        if not plain_allows(s, i, token):
            x[token] = np.float32(-np.inf)
    return plain_readable(x)


def plain_allows(s, i, token):
    return s.logits_mask is None or bool(int(s.logits_mask[i, token // 32]) >> (token % 32) & 1)


def plain_token(logits, s, i):
    x = plain_adjusted(logits, s, i)
    best = max(x)
    if best == -np.inf:
        return next((t for t in range(len(x)) if plain_allows(s, i, t)), 0)
    if s.temperature[i] == 0:
        return x.index(best)
    d = [(v - best) / s.temperature[i] for v in x]
    order = sorted(range(len(x)), key=lambda t: (-d[t], t))
    if s.top_k[i]:
        order = order[: s.top_k[i]]
    weight = {t: math.floor(2**40 * math.exp(d[t])) for t in order}
    total, running, kept = sum(weight.values()), 0, []
    for t in order:
        if kept and (running >= float(s.top_p[i]) * total > 0 and s.top_p[i] < 1):
            break
        kept.append(t)
        running += weight[t]
    if s.min_p[i] > 0:
        kept = [t for t in kept if d[t] >= np.float32(math.log(s.min_p[i]))]
    seed = int(s.seed[i])
    words = plain_philox([int(s.output_position[i]), int(s.sample_index[i]), 0, 0], [seed % 2**32, seed >> 32])
    goal = (words[0] * 2**32 + words[1]) * sum(weight[t] for t in kept) // 2**64
    running = 0
    for t in kept:
        running += weight[t]
        if running > goal:
            return t
    raise AssertionError("the draw lies beyond the candidates")


def plain_log_softmax(logits):
    x = np.array(plain_readable(logits), dtype=np.float64)
    x = x - x.max() if x.max() > -np.inf else np.zeros_like(x)
    return (x - np.log(np.exp(x).sum())).astype(np.float32)


# -- drawn batches ----------------------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1.0, 2.0, -3.0, 5.5, 30.0, -30.0]),
    st.sampled_from([math.nan, math.inf, -math.inf, 3.4e38, -3.4e38, 1e-40]),
    st.floats(-20, 20, width=32),
)


@st.composite
def batches(draw):
    """Logits [samples, vocab] with ties and extremes, and settings of every kind."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    samples = draw(st.integers(1, 4))
    vocab = draw(st.one_of(st.integers(1, 70), st.integers(900, 2500)))
    palette = np.array(draw(st.lists(VALUES, min_size=1, max_size=9)), dtype=np.float32)  # few values, many ties
    spread = draw(st.sampled_from([0.0, 0.1, 2.0, 8.0]))
    logits = rng.choice(palette, (samples, vocab)) + np.float32(spread) * rng.standard_normal((samples, vocab)).astype(
        np.float32
    )

    def column(strategy):
        return draw(st.lists(strategy, min_size=samples, max_size=samples))

    tokens = st.lists(st.integers(0, vocab - 1), max_size=12).map(lambda ids: np.array(ids, dtype=np.int32))
    biases = st.dictionaries(st.integers(0, vocab - 1), st.floats(-100, 100, width=32), max_size=5).map(
        lambda bias: (np.array(list(bias), dtype=np.int32), np.array(list(bias.values()), dtype=np.float32))
    )
    allowed_share = draw(st.sampled_from([None, 0.0, 0.05, 0.5, 1.0]))
    mask = None
    if allowed_share is not None:
        mask = mask_words(rng.random((samples, vocab)) < allowed_share)
        if draw(st.booleans()):
            mask[0] = 0xFFFFFFFF
    return logits, batch(
        samples,
        temperature=column(st.sampled_from([0.0, 1e-30, 0.3, 1.0, 2.5, 100.0])),
        top_k=column(st.sampled_from([0, 0, 1, 2, 7, 50, 5000])),
        top_p=column(st.sampled_from([1.0, 1.0, 1e-6, 0.3, 0.9, 0.999, 1 - 2**-24])),
        min_p=column(st.sampled_from([0.0, 0.0, 1e-6, 0.1, 0.5, 1.0])),
        repetition_penalty=column(st.sampled_from([1.0, 0.01, 1.3, 100.0])),
        presence_penalty=column(st.sampled_from([0.0, -2.0, 0.7])),
        frequency_penalty=column(st.sampled_from([0.0, 2.0, -0.3])),
        seed=column(st.integers(0, 2**64 - 1)),
        sample_index=column(st.integers(0, 127)),
        output_position=column(st.integers(0, 2**31 - 1)),
        num_logprobs=column(st.integers(-1, 20)),
        prompt=column(st.none() | tokens),
        output=column(st.none() | tokens),
        bias=draw(st.none() | st.lists(st.none() | biases, min_size=samples, max_size=samples)),
        mask=mask,
    )


@given(batches())
@np.errstate(all="ignore")
def test_tokens_follow_the_definition(drawn):
    logits, sampling = drawn
    before = logits.copy()
    output = sample(logits, sampling)
    assert output.token_ids.tolist() == [plain_token(row, sampling, i) for i, row in enumerate(logits)]
    assert np.array_equal(logits, before, equal_nan=True)


@given(batches())
@np.errstate(all="ignore")
def test_logprobs_are_those_of_the_raw_distribution(drawn):
    logits, sampling = drawn
    output = sample(logits, sampling)
    assert output.top_ids.shape == output.top_logprobs.shape == (len(logits), max(0, sampling.num_logprobs.max()))
    for i, row in enumerate(logits):
        wanted, expected = int(sampling.num_logprobs[i]), plain_log_softmax(row)
        n = min(max(wanted, 0), len(row))
        assert np.isnan(output.logprobs[i]) == (wanted < 0)
        if wanted >= 0:
            np.testing.assert_allclose(output.logprobs[i], expected[output.token_ids[i]], rtol=1e-6, atol=1e-6)
        x = np.array(plain_readable(row))
        distance = x - x.max() if x.max() > -np.inf else np.zeros_like(x)
        assert output.top_ids[i, :n].tolist() == sorted(range(len(row)), key=lambda t: (-distance[t], t))[:n]
        np.testing.assert_allclose(output.top_logprobs[i, :n], expected[output.top_ids[i, :n]], rtol=1e-6, atol=1e-6)
        assert (output.top_ids[i, n:] == -1).all()
        assert np.isnan(output.top_logprobs[i, n:]).all()


@given(batches())
def test_a_sample_depends_on_its_own_row_only(drawn):
    logits, sampling = drawn
    together = sample(logits, sampling)
    for i in range(len(logits)):
        alone = sample(logits[i : i + 1], only(sampling, i))
        width = alone.top_ids.shape[1]
        assert alone.token_ids[0] == together.token_ids[i]
        assert alone.logprobs.tobytes() == together.logprobs[i : i + 1].tobytes()
        assert alone.top_ids[0].tolist() == together.top_ids[i, :width].tolist()
        assert alone.top_logprobs[0].tobytes() == together.top_logprobs[i, :width].tobytes()


@pytest.mark.parametrize("spread", [0.3, 3.0, 12.0])
def test_a_full_vocabulary_follows_the_definition(spread):
    rng = np.random.default_rng(int(spread * 10))
    logits = (rng.standard_normal((8, 49_152)) * spread).astype(np.float32)
    sampling = batch(
        8,
        temperature=[1.0, 0.7, 1.0, 1.0, 1.0, 1.5, 0.0, 1.0],
        top_k=[0, 0, 50, 0, 20_000, 40, 0, 0],
        top_p=[1.0, 1.0, 1.0, 0.9, 0.95, 0.9, 1.0, 0.9999],
        min_p=[0.0, 0.0, 0.0, 0.0, 0.0, 0.05, 0.0, 0.001],
        seed=range(8),
    )
    output = sample(logits, sampling)
    assert output.token_ids.tolist() == [plain_token(row, sampling, i) for i, row in enumerate(logits)]


# -- random numbers and distributions ---------------------------------------------------------------------------------------

# Random123 1.14, tests/kat_vectors, philox4x32 with 10 rounds
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text):
    return np.array([[int(word, 16) for word in text.split()]], dtype=np.uint32)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, expected):
    assert philox4x32(words(counter), words(key)).tolist() == words(expected).tolist()


def test_philox_rows_are_independent():
    counters = np.concatenate([words(counter) for counter, _, _ in KNOWN_ANSWERS])
    keys = np.concatenate([words(key) for _, key, _ in KNOWN_ANSWERS])
    assert philox4x32(counters, keys).tolist() == [words(expected)[0].tolist() for _, _, expected in KNOWN_ANSWERS]


LOGITS = np.array([1.0, 0.2, -1.0, 2.0, 0.2, -0.5, 1.5, 0.9], dtype=np.float32)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def kept(probabilities, ids):
    """The distribution cut down to some tokens."""
    cut = np.zeros_like(probabilities)
    cut[list(ids)] = probabilities[list(ids)]
    return cut / cut.sum()


# most likely first 3 6 0 7 1 4 5 2: .361 .219 .133 .120 .060 .060 .030 .018; the first three sum to .713
P = softmax(LOGITS.astype(np.float64))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, P),
        ({"temperature": 0.5}, softmax(LOGITS.astype(np.float64) / 0.5)),
        ({"temperature": 3.0}, softmax(LOGITS.astype(np.float64) / 3.0)),
        ({"top_k": 3}, kept(P, [3, 6, 0])),
        ({"top_k": 5}, kept(P, [3, 6, 0, 7, 1])),
        ({"top_p": 0.7}, kept(P, [3, 6, 0])),
        ({"top_p": 0.72}, kept(P, [3, 6, 0, 7])),
        ({"top_k": 3, "top_p": 0.7}, kept(P, [3, 6])),
        ({"min_p": 0.35}, kept(P, [3, 6, 0])),
        ({"min_p": 0.35, "top_p": 0.5}, kept(P, [3, 6])),
    ],
)
@pytest.mark.parametrize("varied", ["seed", "sample_index", "output_position"])
def test_samples_have_the_right_distribution(filters, expected, varied):
    draws = 8_000
    sampling = batch(draws, **{"seed": 11, **filters, varied: range(draws)})
    tokens = sample(np.broadcast_to(LOGITS, (draws, 8)), sampling).token_ids
    counts = np.bincount(tokens, minlength=8)
    possible = expected > 0
    assert (counts[~possible] == 0).all()
    chi_square = ((counts - draws * expected)[possible] ** 2 / (draws * expected[possible])).sum()
    assert chi_square < 29.9  # 7 degrees of freedom: 1 chance in 10,000 (and the draws never change)


def test_top_p_keeps_no_more_than_reaches_it():
    """Two of four equal tokens hold exactly half of the mass."""
    tokens = sample(np.zeros((200, 4), dtype=np.float32), batch(200, top_p=0.5, seed=range(200))).token_ids
    assert set(tokens.tolist()) == {0, 1}


def test_seeds_of_64_bits_count_whole():
    seeds = [5, 5 + 2**32, 2**64 - 1, 2**63]
    logits = np.zeros((len(seeds), 4096), dtype=np.float32)
    assert len(set(sample(logits, batch(len(seeds), seed=seeds)).token_ids.tolist())) == len(seeds)


def test_the_definition_does_not_change():
    """Tokens that were drawn once are drawn for ever: recorded conversations can be repeated."""
    logits = np.broadcast_to((np.arange(1000) * 37 % 101).astype(np.float32) / 20, (6, 1000))
    sampling = batch(6, seed=42, output_position=range(6), top_k=[0, 0, 100, 0, 0, 0], top_p=[1, 1, 1, 0.5, 1, 1])
    assert sample(logits, sampling).token_ids.tolist() == PINNED


PINNED = [671, 683, 846, 977, 745, 442]

# -- penalties, bias, mask: where the best token changes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "settings_", "expected"),
    [
        ([2.0, 1.1], {"repetition_penalty": 2.0, "prompt": [ints(0)]}, 1),  # 2 / 2 < 1.1
        ([2.0, 1.1], {"repetition_penalty": 1.8, "prompt": [ints(0)]}, 0),  # 2 / 1.8 > 1.1
        ([2.0, 1.1], {"repetition_penalty": 1.8, "prompt": [ints(0, 0)], "output": [ints(0)]}, 0),  # once, however often seen
        ([2.0, 1.1], {"repetition_penalty": 2.0, "output": [ints(0)]}, 1),
        ([-1.0, -1.5], {"repetition_penalty": 2.0, "prompt": [ints(0)]}, 1),  # -1 * 2 < -1.5
        ([2.0, 1.1], {"presence_penalty": 1.0, "output": [ints(0, 0, 0)]}, 1),  # 2 - 1 < 1.1
        ([2.0, 0.9], {"presence_penalty": 1.0, "output": [ints(0, 0, 0)]}, 0),
        ([2.0, 0.9], {"presence_penalty": 1.0, "prompt": [ints(0)], "output": [ints()]}, 0),  # the prompt does not count
        ([2.0, 0.9], {"frequency_penalty": 0.4, "output": [ints(0, 0, 0)]}, 1),  # 2 - 3 * 0.4 < 0.9
        ([2.0, 0.9], {"frequency_penalty": 0.4, "output": [ints(0, 0)]}, 0),
        ([1.0, 1.5], {"frequency_penalty": -0.4, "output": [ints(0, 0)]}, 0),  # negative: repeat more
        ([2.0, 1.0], {"repetition_penalty": 2.0, "presence_penalty": 0.5, "output": [ints(0)]}, 1),  # 2 / 2 - 0.5
        ([0.0, 1.0, 0.5], {"bias": [(ints(0, 2), np.array([1.5, 0.1], np.float32))]}, 0),
        ([0.0, 1.0, 0.5], {"bias": [(ints(1), np.array([-100.0], np.float32))]}, 2),
        ([0.0, 1.0, 0.5], {"mask": np.array([[0b101]], np.uint32)}, 2),
        ([0.0, 1.0, 0.5], {"mask": np.array([[0b001]], np.uint32), "bias": [(ints(2), np.array([9], np.float32))]}, 0),
    ],
)
def test_the_best_token_after_adjustments(logits, settings_, expected):
    output = sample(np.array([logits], dtype=np.float32), batch(1, temperature=0.0, **settings_))
    assert output.token_ids.tolist() == [expected]


def test_a_mask_reaches_past_the_first_word():
    allowed = np.zeros((2, 100), dtype=bool)
    allowed[0, [*range(32), 64]] = allowed[1, [99]] = True
    logits = np.arange(200, dtype=np.float32).reshape(2, 100)
    output = sample(logits, batch(2, temperature=[0.0, 1.0], mask=mask_words(allowed)))
    assert output.token_ids.tolist() == [64, 99]


# -- odd input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("row", "mask", "expected"),
    [
        ([math.nan, 1.0, math.nan], None, 1),
        ([-math.inf, -math.inf, -5.0], None, 2),
        ([0.0, math.inf, 3.0], None, 1),
        ([math.nan] * 3, 0b110, 1),  # nothing to go by: the lowest token allowed
        ([1.0, -math.inf, math.nan], 0b110, 1),
        ([1.0, 2.0, 3.0], 0, 0),  # nothing allowed: token 0
        ([-math.inf] * 3, None, 0),
    ],
)
def test_rows_without_numbers_still_give_a_token(temperature, row, mask, expected):
    mask_row = None if mask is None else np.array([[mask]], dtype=np.uint32)
    output = sample(np.array([row], dtype=np.float32), batch(1, temperature=temperature, mask=mask_row))
    assert output.token_ids.tolist() == [expected]


def test_greedy_ties_go_to_the_lowest_token():
    logits = np.array([[1, 3, 3, 2, 3]], dtype=np.float32)
    assert sample(logits, batch(1, temperature=0.0)).token_ids.tolist() == [1]


def test_an_empty_batch():
    output = sample(np.zeros((0, 10), dtype=np.float32), batch(0))
    assert output.token_ids.shape == output.logprobs.shape == (0,)
    assert output.top_ids.shape == (0, 0)
