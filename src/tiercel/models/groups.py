"""Which layers of a model keep their KV together."""

from collections import defaultdict

from tiercel.types import KVGroupSpec, ModelConfig


def kv_groups(config: ModelConfig) -> tuple[KVGroupSpec, ...]:
    """One group of all layers with the same window, or with none; in the order of their first layers."""
    layers: dict[int | None, list[int]] = defaultdict(list)
    for layer in range(config.num_layers):
        layers[config.sliding_window if layer in config.windowed_layers else None].append(layer)
    return tuple(KVGroupSpec(tuple(members), window) for window, members in layers.items())
