"""From a checkpoint's weights to a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from tiercel.models.balance import Balanced, Watched, watch
from tiercel.models.checkpoint import Checkpoint
from tiercel.models.registry import ARCHITECTURES, Model
from tiercel.ops import Forward, Handle, Ops
from tiercel.telemetry import get_logger
from tiercel.types import KVGroup, ModelConfig, ModelError, Weight

log = get_logger("tiercel.models")

_MOST_NAMED = 5


def load_model(checkpoint: Checkpoint, ops: Ops, groups: Sequence[KVGroup], file: Path | None = None) -> Forward:
    """The model of a checkpoint, ready to run: as an earlier start left it in `file`, or built now and left there.

    Raises what `build_model` raises.
    """
    layouts = [group.layout for group in groups]
    ready = ops.restore(file, layouts) if file is not None else None
    if ready is not None:
        return ready
    weights = _balanced(checkpoint, ops, groups) if ops.balances else checkpoint.weights
    built = ops.compile(build_model(checkpoint.config, weights, ops), layouts)
    if file is not None:
        try:
            ops.save(built, file)
        except OSError as error:
            log.info("the packed model is not kept", path=str(file), reason=str(error))
    return built


def build_model(config: ModelConfig, weights: Mapping[str, Weight], ops: Ops) -> Model:
    """A model whose weights are packed for `ops`. weights: under their Hugging Face names.

    Raises ModelError if the architecture is unknown, or if a tensor is missing, misshaped or has no place in it.
    """
    if config.architecture not in ARCHITECTURES:
        raise ModelError(f"architecture {config.architecture!r} is unknown; known are {', '.join(sorted(ARCHITECTURES))}")
    source = CheckpointWeights(config.architecture, weights, ops)
    model = ARCHITECTURES[config.architecture](config, source, ops)
    left = sorted(name for name in weights if name not in source.used and not _dispensable(name, config))
    if left:
        more = f" and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
        raise ModelError(f"architecture {config.architecture!r} has no place for {', '.join(left[:_MOST_NAMED])}{more}")
    return model


def _balanced(checkpoint: Checkpoint, ops: Ops, groups: Sequence[KVGroup]) -> Mapping[str, Weight]:
    """Reads with the weights as they are, and drops them again before the balanced ones are packed."""
    watched, weights = Watched(ops), dict(checkpoint.weights)
    watching = cast(Ops, watched)
    watch(build_model(checkpoint.config, weights, watching), watching, checkpoint.config, groups)
    return Balanced(weights, watched.magnitudes({id(weight): name for name, weight in weights.items()}), checkpoint.config)


def _dispensable(name: str, config: ModelConfig) -> bool:
    """Tensors that some checkpoints hold although others determine them."""
    return name.endswith(".rotary_emb.inv_freq") or (config.tie_embeddings and name == "lm_head.weight")


class CheckpointWeights:
    """The weight source of a plain model: tensors as the checkpoint has them, packed for a back end."""

    def __init__(self, architecture: str, weights: Mapping[str, Weight], ops: Ops, prefix: str = "") -> None:
        self._architecture, self._weights, self._ops, self._prefix = architecture, weights, ops, prefix
        self.used: set[str] = set()

    def at(self, prefix: str) -> "CheckpointWeights":
        below = CheckpointWeights(self._architecture, self._weights, self._ops, f"{self._prefix}{prefix}.")
        below.used = self.used
        return below

    def pack(self, shapes: Mapping[str, tuple[int, ...]], *, table: bool = False) -> Handle:
        return self._ops.pack(*(self._find(self._prefix + name, shape) for name, shape in shapes.items()), table=table)

    def _find(self, name: str, shape: tuple[int, ...]) -> Weight:
        if name not in self._weights:
            raise ModelError(f"architecture {self._architecture!r} needs a tensor {name} {list(shape)}; there is none")
        weight = self._weights[name]
        if weight.shape != shape:
            raise ModelError(f"tensor {name} is {list(weight.shape)}; the settings of the model call for {list(shape)}")
        self.used.add(name)
        return weight
