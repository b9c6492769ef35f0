"""The native sampler draws the tokens of the definition."""

import numpy as np
import pytest
from hypothesis import given

from tests.ops.test_sampling import batch, batches, mask_words, only
from tiercel.ops import sampling as definition
from tiercel.ops.cpu import sampling as native
from tiercel.ops.cpu.library import Pool

POOLS = [Pool(threads) for threads in (1, 2, 3)]


@pytest.fixture(params=POOLS, ids=lambda pool: f"{pool.threads}")
def pool(request):
    return request.param


@pytest.fixture
def undefined(monkeypatch):
    """Rows that the library can draw must not go to the definition."""

    def refuse(*_):
        raise AssertionError("drawn by the definition")

    monkeypatch.setattr(native, "sample_by_definition", refuse)


def same(output, expected):
    assert output.token_ids.tolist() == expected.token_ids.tolist()
    for name in ("token_ids", "logprobs", "top_ids", "top_logprobs"):
        assert getattr(output, name).dtype == getattr(expected, name).dtype
        np.testing.assert_array_equal(getattr(output, name), getattr(expected, name))


def plain(sampling):
    """The batch without what only the definition knows."""
    samples = len(sampling.rows)
    kept = ("temperature", "top_k", "top_p", "min_p", "seed", "sample_index", "output_position")
    return batch(samples, mask=sampling.logits_mask, **{name: getattr(sampling, name) for name in kept})


@given(batches())
@np.errstate(all="ignore")
def test_any_batch_gives_what_the_definition_gives(drawn):
    logits, sampling = drawn
    for pool in POOLS:
        same(native.sample(pool, logits, sampling), definition.sample(logits, sampling))


@given(batches())
@np.errstate(all="ignore")
def test_plain_rows(drawn):
    logits, sampling = drawn[0], plain(drawn[1])
    before = logits.copy()
    for pool in POOLS:
        same(native.sample(pool, logits, sampling), definition.sample(logits, sampling))
    assert np.array_equal(logits, before, equal_nan=True)


@given(batches())
@np.errstate(all="ignore")
def test_a_sample_depends_on_its_own_row_only(drawn):
    logits, sampling = drawn[0], plain(drawn[1])
    together = native.sample(POOLS[1], logits, sampling).token_ids
    for i in range(len(logits)):
        assert native.sample(POOLS[1], logits[i : i + 1], only(sampling, i)).token_ids[0] == together[i]


@pytest.mark.usefixtures("undefined")
@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
@pytest.mark.parametrize("vocab", [49_152, 151_936, 32_003])
def test_full_vocabularies(pool, spread, vocab):
    """Rows of every setting; also with ties, since bf16 weights and inputs leave few different logits."""
    rng = np.random.default_rng(vocab)
    samples = 12
    logits = (rng.standard_normal((samples, vocab)) * spread).astype(np.float32)
    logits[::2] = np.round(logits[::2] * 16) / 16
    allowed = rng.random((samples, vocab)) < 0.7
    sampling = batch(
        samples,
        temperature=[0.0, 0.0, 1.0, 0.6, 1.0, 1.0, 1.0, 0.3, 2.0, 1.0, 0.9, 1.0],
        top_k=[0, 40, 0, 50, 20_000, 0, 0, 1, 0, 40, 1000, 0],
        top_p=[1.0, 0.9, 1.0, 0.95, 1.0, 0.9, 1.0, 1.0, 0.999, 1 - 2**-24, 0.5, 1e-9],
        min_p=[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.05, 0.0, 1e-4, 0.1, 0.0, 0.0],
        seed=rng.integers(0, 2**64, samples, dtype=np.uint64),
        sample_index=range(samples),
        output_position=rng.integers(0, 2**31, samples),
        mask=mask_of(allowed) if spread == 1.0 else None,
    )
    assert native.sample(pool, logits, sampling).token_ids.tolist() == definition.sample(logits, sampling).token_ids.tolist()


def mask_of(allowed):
    samples, vocab = allowed.shape
    padded = np.zeros((samples, -(-vocab // 32) * 32), bool)
    padded[:, :vocab] = allowed
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint32)


def test_mask_words_agree():
    allowed = np.random.default_rng(0).random((3, 75)) < 0.5
    assert np.array_equal(mask_of(allowed), mask_words(allowed))


NAN, INF, TINY = np.nan, np.inf, 1e-40
NOTHING = [False] * 40


@pytest.mark.usefixtures("undefined")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("logits", "allowed", "expected"),
    [
        ([-INF] * 39 + [NAN], None, 0),
        ([NAN] * 35 + [INF] + [-INF] * 4, None, 35),
        ([-INF] * 40, [False] * 33 + [True] * 7, 33),
        ([1.0] * 40, NOTHING, 0),
        ([50.0] + [1.0] * 38 + [9.0], [False] * 20 + [True] + [False] * 19, 20),
        ([0.0] * 38 + [100.0, 100.0 + 2**-17], None, 39),
    ],
)
@np.errstate(all="ignore")
def test_rows_with_one_answer(pool, logits, allowed, expected, temperature):
    mask = None if allowed is None else mask_words(np.array([allowed]))
    sampling = batch(1, temperature=temperature, min_p=1.0, mask=mask)
    row = np.array([logits], np.float32)
    assert definition.sample(row, sampling).token_ids.tolist() == [expected]
    assert native.sample(pool, row, sampling).token_ids.tolist() == [expected]


@pytest.mark.usefixtures("undefined")
def test_denormal_distances_count(pool):
    """The order of candidates is that of their distances, however small: half of the mass is one token's."""
    sampling = batch(50, seed=range(50), top_p=0.5)
    logits = np.tile(np.array([-TINY, 0.0], np.float32), (50, 1))
    assert set(native.sample(pool, logits, sampling).token_ids.tolist()) == {1}


@pytest.mark.usefixtures("undefined")
@pytest.mark.parametrize("vocab", [33, 64])
def test_bits_behind_the_last_token_mean_nothing(pool, vocab):
    mask = np.array([[0, 0xFFFFFFFE]], np.uint32)
    expected = 33 if vocab == 64 else 0
    logits = np.full((1, vocab), -np.inf, np.float32)
    assert native.sample(pool, logits, batch(1, mask=mask)).token_ids.tolist() == [expected]


@pytest.mark.usefixtures("undefined")
def test_more_rows_than_threads(pool):
    logits = np.random.default_rng(5).standard_normal((64, 1000)).astype(np.float32)
    sampling = batch(64, temperature=np.arange(64) % 3, seed=range(64), top_p=0.9)
    assert native.sample(pool, logits, sampling).token_ids.tolist() == definition.sample(logits, sampling).token_ids.tolist()


@pytest.mark.usefixtures("undefined")
def test_rows_of_a_wider_buffer(pool):
    wide = np.random.default_rng(6).standard_normal((5, 300)).astype(np.float32)
    logits, sampling = wide[:, :277], batch(5, temperature=[0, 1, 1, 0, 1], top_k=[0, 3, 0, 0, 0])
    assert native.sample(pool, logits, sampling).token_ids.tolist() == definition.sample(logits, sampling).token_ids.tolist()


@pytest.mark.usefixtures("undefined")
def test_weights_are_exact_to_what_top_p_can_tell():
    """Two tokens: the second is kept where the first one's share is below top_p, by no more than float32 can say."""
    distances = np.linspace(0.01, 4, 60, dtype=np.float32)
    shares = 1 / (1 + np.exp(-distances.astype(np.float64)))
    for change, kept in ((1 - 1.2e-7, 1), (1 + 1.2e-7, 2)):
        logits = np.repeat(np.stack([0 * distances, -distances], axis=1), 100, axis=0)
        sampling = batch(len(logits), seed=np.tile(range(100), 60), top_p=np.repeat(shares * change, 100))
        tokens = native.sample(POOLS[0], logits, sampling).token_ids.reshape(60, 100)
        assert (tokens.max(axis=1) + 1 == kept).all()


@pytest.mark.usefixtures("undefined")
@pytest.mark.parametrize("distance", [1e-40, 1e-6, 0.1, 1.0, 5.0, 12.0])
def test_draws_change_where_the_definition_says(distance):
    logits = np.repeat(np.array([[0.0, -distance]], np.float32), 500, axis=0)
    sampling = batch(500, seed=range(500))
    output = native.sample(POOLS[0], logits, sampling)
    assert output.token_ids.tolist() == definition.sample(logits, sampling).token_ids.tolist()
