"""A row's bits depend on that row only: not on the rows beside it, on chunks, on the batch, or on the number of threads."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.networks import NETWORKS, VOCAB, Run, weight, weights
from tests.support.steps import PagedContexts
from tiercel.ops import Handle, load_ops
from tiercel.ops.reference import plan
from tiercel.types import KVGroup, KVLayout, RopeConfig

T = TypeVar("T")

OPS = load_ops()
ROWS = 520
COUNTS = [*range(1, 34), 47, 48, 63, 64, 65, 100, 127, 128, 200, 255, 256, 257, 511, 512]


@pytest.fixture(params=[1, 2, 8])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def pack(*shape: int) -> Handle:
    return OPS.pack(weight(random(*shape, seed=1).numpy()))


def on_one_thread(op: Callable[[], T]) -> T:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    result = op()
    torch.set_num_threads(before)
    return result


def assert_independent(op: Callable[[Tensor], Handle], x: Tensor, counts: list[int] = COUNTS) -> None:
    """Runs of rows of x give the bits that they have among all rows, on one thread."""
    whole = on_one_thread(lambda: op(x))
    for count in counts:
        start = 7 * count % (len(x) - count + 1)
        assert torch.equal(op(x[start : start + count]), whole[start : start + count]), count


SMOLLM2 = [(960, 576), (576, 576), (3072, 576), (576, 1536)]
QWEN = [(1152, 896), (9728, 896), (896, 4864), (4096, 1024)]
OTHERS = [(48, 64), (101, 80), (100, 385), (33, 400), (17, 16), (40, 2048)]


@pytest.mark.parametrize("shape", SMOLLM2 + QWEN + OTHERS, ids=str)
def test_linear(shape: tuple[int, int], threads: int) -> None:
    matrix, bias = pack(*shape), pack(shape[0])
    counts = COUNTS if shape[0] * shape[1] < 10**6 else COUNTS[::5]
    assert_independent(lambda x: OPS.linear(Handle(x), matrix, bias), random(ROWS, shape[1]), counts)


@pytest.mark.parametrize("shape", [(49_152, 576), (32_000, 64)], ids=str)
def test_vocabulary(shape: tuple[int, int], threads: int) -> None:
    table = pack(*shape)
    assert_independent(lambda x: OPS.linear(Handle(x), table), random(70, shape[1]), [1, 2, 3, 16, 17, 40, 64, 70])


@pytest.mark.parametrize("width", [16, 20, 33, 64, 96, 576, 1536, 4864])
def test_elementwise(width: int, threads: int) -> None:
    """On whole rows, and on halves of wider rows as `split` leaves them."""
    x, norm = random(ROWS, 2 * width), pack(width)
    assert_independent(lambda x: OPS.silu_mul(Handle(3 * x), Handle(x)), random(ROWS, width))
    assert_independent(lambda x: OPS.silu_mul(*OPS.split(Handle(3 * x), (width, width))), x)
    assert_independent(lambda x: OPS.rms_norm(OPS.split(Handle(x), (width, width))[1], norm, 1e-5), x)
    assert_independent(lambda x: OPS.add(*OPS.split(Handle(x), (width, width))), x)


@pytest.mark.parametrize("head_dim", [16, 20, 64, 80, 128])
def test_heads(head_dim: int, threads: int) -> None:
    """Norms of heads, and rotation; a row's first channel says where it stands."""
    x, norm = random(ROWS, 5 * head_dim), pack(head_dim)
    x[:, 0] = torch.arange(ROWS)
    table = OPS.pack_rope(RopeConfig(head_dim), 10_000)

    def some_heads(x: Tensor) -> Handle:
        return OPS.split(Handle(x), (3 * head_dim, 2 * head_dim))[0]

    assert_independent(lambda x: OPS.rms_norm(some_heads(x), norm, 1e-5), x)
    assert_independent(lambda x: OPS.rope(some_heads(x), Handle(19 * x[:, 0].long()), table), x)


def contexts_in_chunks(
    layout: KVLayout, tokens: dict[str, Tensor], chunks: list[dict[str, int]], heads: int, **options: int
) -> dict[str, Tensor]:
    """Attention results by request. tokens: [positions, (heads + 2 kv heads) * head_dim], q, k and v of each position."""
    kv_size = layout.num_kv_heads * layout.head_dim
    window = None if "sink_tokens" in options else options.get("window")  # a window of its own would drop the sinks
    contexts = PagedContexts([KVGroup(layout, window)], 100, seed=len(chunks))
    kv = OPS.bind_kv(contexts.arenas[0], layout)
    done: dict[str, list[Tensor]] = defaultdict(list)
    for counts in chunks:
        starts = {name: contexts.lengths.get(name, 0) for name in counts}
        step = contexts.step({name: range(count) for name, count in counts.items()})
        batch = OPS.begin(step).batches[0]
        x = torch.cat([tokens[name][start : start + counts[name]] for name, start in starts.items()])
        q, k, v = OPS.split(Handle(x), (heads * layout.head_dim, kv_size, kv_size))
        OPS.kv_write(k, v, kv, 0, batch)
        result = OPS.attention(q, kv, 0, batch, scale=layout.head_dim**-0.5, **options)
        for name, rows in zip(counts, torch.split(result, list(counts.values())), strict=True):
            done[name].append(rows)
    return {name: torch.cat(rows) for name, rows in done.items()}


@pytest.mark.parametrize("options", [{}, {"window": 100}, {"window": 100, "sink_tokens": 70}], ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(9, 3, 64), (14, 2, 64), (8, 8, 32), (4, 2, 80), (6, 1, 24)])
def test_attention(heads: int, kv_heads: int, head_dim: int, options: dict[str, int], threads: int) -> None:
    """Each request alone and at once, against all in one batch, in chunks that decode rows and prefills share."""
    layout = KVLayout((0,), kv_heads, head_dim)
    lengths = {"a": 700, "b": 260, "c": 33, "d": 256, "e": 257}
    tokens = {name: random(length, (heads + 2 * kv_heads) * head_dim, seed=length) for name, length in lengths.items()}
    alone = {
        name: on_one_thread(
            lambda name=name: contexts_in_chunks(layout, tokens, [{name: lengths[name]}], heads, **options)[name]
        )
        for name in lengths
    }
    for seed in range(3):
        mixed = contexts_in_chunks(layout, tokens, random_chunks(lengths, seed), heads, **options)
        for name in lengths:
            assert torch.equal(mixed[name], alone[name]), (name, seed)


@pytest.mark.parametrize(
    "cut", [{"_MOST_ROWS": 32}, {"_SCORES": 1}, {"_FEW_ROWS": 0, "_GATHERED": 1}, {"_FEW_ROWS": 1000}], ids=str
)
def test_cutting_attention_otherwise_changes_nothing(cut: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of row tiles and bundles are free."""
    layout, lengths = KVLayout((0,), 2, 24), {"a": 700, "b": 300, "c": 300}
    tokens = {name: random(length, (6 + 4) * 24, seed=length) for name, length in lengths.items()}
    chunks = random_chunks(lengths, 0)
    expected = contexts_in_chunks(layout, tokens, chunks, 6)
    for name, value in cut.items():
        monkeypatch.setattr(plan, name, value)
    actual = contexts_in_chunks(layout, tokens, chunks, 6)
    for name in lengths:
        assert torch.equal(actual[name], expected[name])


def random_chunks(lengths: dict[str, int], seed: int) -> list[dict[str, int]]:
    """Steps that take all requests to their lengths: long chunks, short ones, and single rows side by side."""
    rng, left, steps = np.random.default_rng(seed), dict(lengths), []
    while left:
        counts = {name: min(count, int(rng.choice([0, 1, 1, 5, 64, 150, 300]))) for name, count in left.items()}
        counts = {name: count for name, count in counts.items() if count}
        left = {name: count - counts.get(name, 0) for name, count in left.items() if count > counts.get(name, 0)}
        steps += [counts] if counts else []
    return steps


@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen2-upper-window", "qwen3"])
def test_model(name: str, threads: int) -> None:
    """Logits of whole models, alone and at once against chunks and batches."""
    network = NETWORKS[name]
    lengths = {"a": 300, "b": 130, "c": 20}
    tokens = {name: np.random.default_rng(length).integers(0, VOCAB, length) for name, length in lengths.items()}
    run = Run(network.config, weights(network), OPS)
    alone = on_one_thread(lambda: {name: run.logits({name: tokens[name]})[name] for name in tokens})
    for seed in range(2):
        run = Run(network.config, weights(network), OPS, seed=seed)
        start = dict.fromkeys(lengths, 0)
        for counts in random_chunks(lengths, seed):
            logits = run.logits({name: tokens[name][start[name] :][:count] for name, count in counts.items()})
            for name, count in counts.items():
                np.testing.assert_array_equal(logits[name], alone[name][start[name] :][:count])
                start[name] += count
