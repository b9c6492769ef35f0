"""What a model costs in an engine, counted: bytes read and multiplications made in a step."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tiercel.bench.shapes import products
from tiercel.engine import LLM
from tiercel.models import ModelExecutor, open_checkpoint, resolve_model
from tiercel.ops.cpu.backend import CompiledModel
from tiercel.ops.cpu.packing import BF16, Packed
from tiercel.ops.cpu.plan import Op
from tiercel.types import KVGroup, ModelConfig

Kind = Literal["float32", "bf16", "int8"]  # of the numbers that are multiplied
FLOAT32 = 4


class Reach(NamedTuple):
    """Bytes that one token of context takes in some layers, and how many tokens back they see; None = all."""

    token_bytes: int
    window: int | None


@dataclass(frozen=True)
class ModelWork:
    """weight_bytes: of all matrices that a step reads whole; per_row, per_sample: multiply-adds of the products for each row of
    a step, and for each row whose logits are wanted; attention_per_key: multiply-adds for each key that a row sees."""

    weight_bytes: int
    kv: tuple[Reach, ...]
    per_row: Mapping[Kind, int]
    per_sample: Mapping[Kind, int]
    attention_per_key: int
    attention_kind: Kind

    def kv_bytes(self, context: float) -> float:
        """Bytes of keys and values that a token reads behind so many others."""
        return sum(reach.token_bytes * min(context, reach.window or context) for reach in self.kv)

    def step_bytes(self, contexts: Sequence[float]) -> float:
        """Bytes that a step of one token for each request reads: the weights once, every request's keys and values."""
        return self.weight_bytes + sum(self.kv_bytes(context) for context in contexts)

    def attention_operations(self, prompt_tokens: int) -> float:
        """Multiplications and additions of a prompt's attention, windows left out of account."""
        return 2 * self.attention_per_key * prompt_tokens * (prompt_tokens + 1) / 2

    @classmethod
    def of(cls, llm: LLM) -> "ModelWork":
        """As the engine has packed its model; of an engine that packs nothing, as if all were float32."""
        config, groups = open_checkpoint(resolve_model(llm.config.model)).config, llm.core.manager.groups
        compiled = compiled_model(llm)
        return cls.of_float32(config, groups) if compiled is None else cls.of_compiled(compiled, config, groups)

    @classmethod
    def of_float32(cls, model: ModelConfig, groups: Sequence[KVGroup]) -> "ModelWork":
        *layer, head = products(model)
        per_row = sum(p.rows * p.columns * p.times for p in layer)
        per_sample = head.rows * head.columns
        weight_bytes = FLOAT32 * (per_row + per_sample)
        return cls(weight_bytes, _reach(groups), {"float32": per_row}, {"float32": per_sample}, _per_key(model), "float32")

    @classmethod
    def of_compiled(cls, compiled: CompiledModel, model: ModelConfig, groups: Sequence[KVGroup]) -> "ModelWork":
        plan = compiled.program.plan
        counts: dict[bool, Counter[Kind]] = {False: Counter(), True: Counter()}
        for entry in plan.instructions[plan.instructions["op"] == Op.LINEAR]:
            counts[bool(entry["samples"])] += _multiply_adds(plan.constants[entry["constant"][0]])
        return cls(plan.weight_bytes, _reach(groups), counts[False], counts[True], _per_key(model), "bf16")


def compiled_model(llm: LLM) -> CompiledModel | None:
    """The program that an engine on the native back end runs."""
    executor = llm.core.runner.executor
    model = executor.model if isinstance(executor, ModelExecutor) else None
    return model if isinstance(model, CompiledModel) else None


def _multiply_adds(packed: Packed) -> Counter[Kind]:
    counts: Counter[Kind] = Counter()
    for matrix in packed.matrices:
        counts["bf16" if matrix.format == BF16 else "int8"] += matrix.rows * matrix.columns
    return counts


def _reach(groups: Sequence[KVGroup]) -> tuple[Reach, ...]:
    return tuple(Reach(group.layout.token_bytes, group.window) for group in groups)


def _per_key(model: ModelConfig) -> int:
    """Query times key and probability times value, in all heads and layers."""
    return 2 * model.num_layers * model.num_heads * model.head_dim
