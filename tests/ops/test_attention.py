"""Attention of the reference back end against a dense softmax in float64."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.steps import PagedContexts
from tiercel.ops import Handle, load_ops
from tiercel.types import AttentionBatch, KVGroup, KVLayout, StepInput

LAYER = 5
OPS = load_ops()


@dataclass
class Scene:
    """A step over contexts of random keys and values, written to an arena that is nan elsewhere.

    keys, values: by request, [positions, kv_heads, head_dim]; there: by request, bool [positions].
    """

    layout: KVLayout
    arena: np.ndarray
    step: StepInput
    q: np.ndarray
    keys: list[np.ndarray]
    values: list[np.ndarray]
    there: list[np.ndarray]

    @property
    def batch(self) -> AttentionBatch:
        return self.step.groups[0]

    def change(self, **fields: np.ndarray) -> None:
        """Changes the attention batch."""
        self.step = replace(self.step, groups=(replace(self.batch, **fields),))

    def rows(self, request: int) -> slice:
        return slice(*self.batch.query_start[request : request + 2])

    def attention(self, **options: object) -> tuple[np.ndarray, np.ndarray]:
        """Result and log-sum-exp of the back end."""
        batch, kv = OPS.begin(self.step).batches[0], OPS.bind_kv(self.arena, self.layout)
        q, scale = Handle(torch.from_numpy(self.q)), self.layout.head_dim**-0.5
        plain = OPS.attention(q, kv, LAYER, batch, scale=scale, **options)
        result, lse = OPS.attention(q, kv, LAYER, batch, scale=scale, return_lse=True, **options)
        assert torch.equal(plain, result)
        return np.asarray(result), np.asarray(lse)

    def visible(self, window: int | None = None, sinks: int = 0) -> list[np.ndarray]:
        """Which keys each row sees, bool [rows, positions] by request."""
        seen = []
        for request, there in enumerate(self.there):
            positions = np.arange(len(there))
            distance = self.batch.q_positions[self.rows(request), None] - positions
            near = True if window is None else (distance < window) | (positions < sinks)
            seen.append((distance >= 0) & near & there)
        return seen

    def dense(self, visible: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Result and log-sum-exp in float64. A row that sees nothing gives zeros and -inf."""
        kv_heads, size = self.layout.num_kv_heads, self.layout.head_dim
        q = self.q.reshape(len(self.q), kv_heads, -1, size).astype(np.float64)
        results, sums = [], []
        for request, seen in enumerate(visible):
            scores = np.einsum("rhgd,phd->rhgp", q[self.rows(request)], self.keys[request]) * size**-0.5
            weights = np.where(seen[:, None, None], np.exp(scores), 0)
            total = weights.sum(-1)
            mixed = np.einsum("rhgp,phd->rhgd", weights, self.values[request]) / np.maximum(total, 1e-300)[..., None]
            results.append(mixed.reshape(len(seen), -1))
            with np.errstate(divide="ignore"):
                sums.append(np.log(total).reshape(len(seen), -1))
        return np.concatenate(results), np.concatenate(sums)

    def assert_correct(self, visible: list[np.ndarray], **options: object) -> None:
        for actual, expected in zip(self.attention(**options), self.dense(visible), strict=True):
            np.testing.assert_allclose(actual, expected, atol=2e-5)


def make_scene(rows: list[int], before: list[int], layout: KVLayout, group: int = 3, seed: int = 0) -> Scene:
    """Requests with `before` tokens of context and `rows` new ones. group: query heads of a kv head.

    Scores have a deviation of about 2, so that attention is uneven.
    """
    rng = np.random.default_rng(seed)
    blocks = sum(-(-(r + b) // layout.block_tokens) for r, b in zip(rows, before, strict=True))
    contexts = PagedContexts([KVGroup(layout)], blocks + 1, seed)
    kv = OPS.bind_kv(contexts.arenas[0], layout)
    shape = (layout.num_kv_heads, layout.head_dim)
    keys, values = ([rng.standard_normal((0, *shape)) for _ in rows] for _ in range(2))
    for counts in (before, rows):
        requests = [request for request, count in enumerate(counts) if count]
        if not requests:
            continue
        step = contexts.step({str(request): range(counts[request]) for request in requests})
        k, v = (rng.standard_normal((len(step.token_ids), *shape)).astype(np.float32) for _ in range(2))
        flat = (Handle(torch.from_numpy(x.reshape(len(x), -1))) for x in (k, v))
        OPS.kv_write(*flat, kv, LAYER, OPS.begin(step).batches[0])
        for place, request in enumerate(requests):
            part = slice(*step.groups[0].query_start[place : place + 2])
            keys[request] = np.concatenate([keys[request], k[part]])
            values[request] = np.concatenate([values[request], v[part]])
    q = 2 * rng.standard_normal((sum(rows), group * layout.num_kv_heads * layout.head_dim)).astype(np.float32)
    return Scene(layout, contexts.arenas[0], step, q, keys, values, [np.ones(len(k), bool) for k in keys])


def small_layout(**changes: object) -> KVLayout:
    return KVLayout(**({"layers": (2, LAYER, 7), "num_kv_heads": 2, "head_dim": 16} | changes))


@pytest.mark.parametrize(
    ("group", "layout"),
    [
        (1, small_layout()),
        (3, small_layout(num_kv_heads=3, head_dim=64)),
        (8, small_layout(num_kv_heads=1, head_dim=24)),
        (2, small_layout(block_tokens=16)),
        (2, small_layout(block_tokens=512)),
        (2, small_layout(block_tokens=48)),
    ],
)
def test_prefill_chunk_and_decode_in_one_batch(group: int, layout: KVLayout) -> None:
    scene = make_scene([300, 1, 7, 1, 1, 40], [0, 511, 256, 3, 0, 250], layout, group)
    scene.assert_correct(scene.visible())


@given(
    requests=st.lists(st.tuples(st.integers(1, 70), st.integers(0, 600)), min_size=1, max_size=5),
    window=st.none() | st.integers(1, 400),
    sinks=st.integers(0, 300),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_windows_and_sinks(requests: list[tuple[int, int]], window: int | None, sinks: int, seed: int) -> None:
    rows, before = (list(column) for column in zip(*requests, strict=True))
    scene = make_scene(rows, before, small_layout(), seed=seed)
    scene.assert_correct(scene.visible(window, sinks), window=window, sink_tokens=sinks)


@given(seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_absent_blocks_are_skipped_and_never_read(seed: int) -> None:
    scene = make_scene([20, 1, 130], [500, 700, 0], small_layout(), seed=seed)
    rng = np.random.default_rng(seed)
    tables = scene.batch.block_tables.copy()
    blocks = scene.arena.reshape(-1, scene.layout.block_bytes)
    for request, entry in zip(rng.integers(0, 3, 12), rng.integers(0, tables.shape[1], 12), strict=True):
        if tables[request, entry] >= 0:
            blocks[tables[request, entry]] = 0xFF
            scene.there[request][entry * 64 : (entry + 1) * 64] = False
            tables[request, entry] = -1
    scene.change(block_tables=tables)
    scene.assert_correct(scene.visible())


def test_a_row_that_sees_nothing_gives_zeros() -> None:
    scene = make_scene([4, 1], [60, 30], small_layout())
    scene.there[0][:] = False
    scene.change(block_tables=np.array([[-1], [scene.batch.block_tables[1, 0]]], np.int32))
    result, lse = scene.attention()
    assert (result[:4] == 0).all()
    assert (lse[:4] == -np.inf).all()
    scene.assert_correct(scene.visible())


def test_tables_with_block_positions_are_the_same_context() -> None:
    """Entries in any order, absent ones left out: the bits do not change."""
    scene = make_scene([9, 1], [630, 300], small_layout())
    expected = scene.attention()
    tables = scene.batch.block_tables
    order = np.random.default_rng(0).permutation(tables.shape[1])
    positions = np.broadcast_to(order * 64, tables.shape)
    scene.change(block_tables=tables[:, order], block_positions=np.array(positions, np.int32))
    for actual, same in zip(scene.attention(), expected, strict=True):
        np.testing.assert_array_equal(actual, same)


def test_blocks_at_odd_positions() -> None:
    """Three blocks at 0, 100 and 170; positions between them are empty."""
    scene = make_scene([5], [187], small_layout())
    starts = np.array([0, 100, 170])
    places = (starts[:, None] + np.arange(64)).reshape(-1)
    for stored in (scene.keys, scene.values):
        spread = np.zeros((234, *stored[0].shape[1:]))
        spread[places] = stored[0]
        stored[0] = spread
    scene.there = [np.isin(np.arange(234), places)]
    scene.change(
        block_positions=starts[None].astype(np.int32),
        lengths=np.array([234], np.int32),
        q_positions=np.arange(229, 234, dtype=np.int32),
    )
    scene.assert_correct(scene.visible())
    scene.assert_correct(scene.visible(window=70, sinks=3), window=70, sink_tokens=3)


@pytest.mark.parametrize("window", [None, 90])
def test_mask_hides_more(window: int | None) -> None:
    scene = make_scene([6, 1, 150], [290, 400, 10], small_layout())
    hidden = np.random.default_rng(1).random((157, 401)) < 0.4
    hidden[3] = True  # a row that sees nothing
    visible = scene.visible(window)
    for request, seen in enumerate(visible):
        seen &= ~hidden[scene.rows(request), : seen.shape[1]]
    scene.assert_correct(visible, window=window, mask=Handle(torch.from_numpy(hidden)))


def test_bfloat16_contexts() -> None:
    """Keys and values are rounded when written; everything else stays float32."""
    scene = make_scene([70, 1], [200, 64], small_layout(format="bfloat16"))
    for stored in (scene.keys, scene.values):
        stored[:] = [torch.from_numpy(x).bfloat16().double().numpy() for x in stored]
    scene.assert_correct(scene.visible())
