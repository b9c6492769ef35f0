"""`tiercel model`: what a model's files say, and GGUF files as safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli.console import waiting
from tiercel.cli.groups import MODEL
from tiercel.cli.options import takes
from tiercel.cli.report import facts
from tiercel.config import EngineConfig, format_size, resolve_model_cache

if TYPE_CHECKING:
    from tiercel.models import Checkpoint
    from tiercel.types import ModelConfig


def register(app: typer.Typer, about: str) -> None:
    models = typer.Typer(help=about, no_args_is_help=True)
    models.command("info")(info)
    models.command("convert")(convert)
    app.add_typer(models, name="model")


@takes(config=MODEL)
def info(
    config: EngineConfig,
    as_json: Annotated[bool, typer.Option("--json", help="as one JSON object")] = False,
) -> None:
    """Architecture, sizes, weight formats, fingerprint."""
    from tiercel.models import open_prepared, resolve_model

    rows = _describe(open_prepared(resolve_model(config.model), resolve_model_cache(config)))
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        facts(f"model {config.model}", rows)


def convert(
    source: Annotated[str, typer.Argument(help="a .gguf file, or an alias for one", show_default=False)],
    destination: Annotated[Path, typer.Argument(help="the directory to make", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="replace an earlier conversion")] = False,
) -> None:
    """Make a directory with safetensors of a GGUF file. KV computed so far stays of use."""
    from tiercel.models import convert_model, resolve_model

    with waiting("opening the model") as say:
        done = convert_model(resolve_model(source), destination, force=force, progress=say)
    typer.echo(f"{destination}: {done.tensors} tensors as float32, {format_size(done.size)}")
    typer.echo(f"KV computed with {source} is reused by it, and the other way round (fingerprint {done.fingerprint})")


def _describe(checkpoint: "Checkpoint") -> dict[str, str]:
    from tiercel.models import kv_groups
    from tiercel.types import KVLayout

    config = checkpoint.config
    formats = checkpoint.parameters
    layouts = [KVLayout(group.layers, config.num_kv_heads, config.head_dim) for group in kv_groups(config)]
    return {
        "name": checkpoint.name,
        "path": str(checkpoint.path),
        "architecture": config.architecture,
        "parameters": f"{sum(formats.values()):,}",
        "layers": f"{config.num_layers} of {config.hidden_size} channels, MLP {config.intermediate_size}",
        "attention": _attention(config),
        "context": f"{config.max_position:,} tokens; {_rope(config)}",
        "vocabulary": f"{config.vocab_size:,} tokens, end of text {', '.join(map(str, config.eos_token_ids)) or 'none'}",
        "weights": f"{format_size(_bytes(formats))} in the file; {_shares(formats)}",
        "KV": f"{format_size(sum(layout.token_bytes for layout in layouts))} per token at float32",
        "chat template": "yes" if checkpoint.chat_template else "no",
        "sampling defaults": ", ".join(f"{k} {v:g}" for k, v in checkpoint.generation_defaults.items()) or "none",
        "fingerprint": checkpoint.fingerprint,
        "kept for quick starts": _kept(checkpoint),
    }


def _kept(checkpoint: "Checkpoint") -> str:
    from tiercel.models.prepared import kept_bytes

    folder = checkpoint.folder
    return f"{format_size(kept_bytes(folder))} in {folder}" if folder is not None else "nothing"


def _bytes(formats: Mapping[str, int]) -> int:
    from tiercel.types import FORMATS

    return sum(count // FORMATS[name].block_values * FORMATS[name].block_bytes for name, count in formats.items())


def _attention(config: "ModelConfig") -> str:
    window = f"; window of {config.sliding_window:,} in {len(config.windowed_layers)} layers" if config.windowed_layers else ""
    return f"{config.num_heads} query heads, {config.num_kv_heads} KV heads of {config.head_dim}{window}"


def _rope(config: "ModelConfig") -> str:
    rope = config.rope
    return f"rope base {rope.theta:g}" + ("" if rope.scaling == "none" else f", {rope.scaling} x {rope.factor:g}")


def _shares(formats: Mapping[str, int]) -> str:
    """{"Q4_1": 134, "F32": 1} -> "Q4_1 99 %, F32 1 %" """
    total = sum(formats.values())
    return ", ".join(f"{name} {100 * count / total:.3g} %" for name, count in sorted(formats.items(), key=lambda f: -f[1]))
