"""Who can be compared on a machine: Tiercel in its formats, and the programs found in one folder."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from tiercel.bench.peers.external import IS_INTERPRETER, ExternalPeer, PeerSpec, serve_command
from tiercel.types import InvalidInput

OWN = str(Path(__file__).parent / "own.py")
TIERCEL = "tiercel"
Keeps = Literal["nothing", "memory", "disk"]  # where a contender finds what it has computed before


class Family(NamedTuple):
    """A model as the folder names it. stem: of its GGUF and OpenVINO files; directory: with safetensors in bf16."""

    stem: str
    directory: str


FAMILIES = {"smollm2": Family("smol", "smollm2-135m"), "qwen2-0.5b": Family("qwen", "qwen2-0.5b-rand")}


class Precision(NamedTuple):
    """Formats, as far as they are known."""

    weights: str
    activations: str
    kv: str

    def __str__(self) -> str:
        return " / ".join(self)


class Entry(NamedTuple):
    """One line of the table of contenders. group: those of one group are held against each other; program, model: places in the
    folder, where {stem} stands for the family's."""

    name: str
    peer: str
    group: str
    precision: Precision
    keeps: Keeps
    program: str
    model: str


_BF16 = Precision("bf16", "bf16", "bf16")
_LLAMA, _MODELS = "llama-build/bin/llama-server", "models"
_DIRECTORY = "{directory}"
ENTRIES = (
    Entry("tiercel bf16", TIERCEL, "bf16", _BF16, "disk", "", _DIRECTORY),
    Entry("tiercel int8", TIERCEL, "int8", Precision("int8", "int8", "int8"), "disk", "", _DIRECTORY),
    Entry("tiercel stored", TIERCEL, "Q4_1", Precision("Q4_1", "int8", "bf16"), "disk", "", "models/{stem}-q4_1.gguf"),
    Entry("vllm", "vllm", "bf16", _BF16, "memory", "venv-vllm/bin/python", _DIRECTORY),
    Entry("transformers", "transformers", "bf16", _BF16, "nothing", "venv-hf/bin/python", _DIRECTORY),
    Entry("llamacpp BF16", "llamacpp", "bf16", Precision("bf16", "bf16", "f16"), "disk", _LLAMA, "models/{stem}-bf16.gguf"),
    Entry(
        "openvino int8",
        "openvino",
        "int8",
        Precision("int8", "int8 or bf16", "int8"),
        "memory",
        "venv-ov/bin/python",
        "models/ov-{stem}-int8",
    ),
    Entry("llamacpp Q8_0", "llamacpp", "int8", Precision("Q8_0", "int8", "f16"), "disk", _LLAMA, "models/{stem}-q8_0.gguf"),
    Entry("llamacpp Q4_1", "llamacpp", "Q4_1", Precision("Q4_1", "int8", "f16"), "disk", _LLAMA, "models/{stem}-q4_1.gguf"),
)
_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "tiercel bf16": {"dtype": "bf16"},
    "tiercel int8": {"dtype": "int8", "kv_dtype": "int8"},
    "tiercel stored": {"dtype": "stored"},
}


@dataclass(frozen=True)
class Contender:
    """One that is compared. options: further arguments of its script; environment: variables it needs."""

    entry: Entry
    program: str
    model: str
    options: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def is_tiercel(self) -> bool:
        return self.entry.peer == TIERCEL

    def start(self, threads: int, options: Mapping[str, object]) -> ExternalPeer:
        """A new process, ready. options: beside its own. Raises TiercelError."""
        options = {**self.options, **options}
        if self.is_tiercel:
            command = serve_command(sys.executable, OWN, "", self.model, threads, options)
            return ExternalPeer(self.name, command)
        command = PeerSpec(self.entry.peer, self.program, self.model).command(threads, options)
        counts_itself = IS_INTERPRETER[self.entry.peer]
        return ExternalPeer(self.name, command, self.environment, counts_itself=counts_itself)


class Installed(NamedTuple):
    """model: directory with safetensors, which most contenders read; missing: why the others are not there, by name."""

    model: Path
    contenders: tuple[Contender, ...]
    missing: Mapping[str, str]


def find_installed(folder: Path, model: str) -> Installed:
    """All that `folder` holds. model: a name of `FAMILIES`, or a directory of another model.

    Raises InvalidInput where there is no such model, or no peer at all.
    """
    others = [entry for entry in ENTRIES if entry.peer != TIERCEL]
    if not any((folder / entry.program).exists() for entry in others):
        programs = ", ".join(dict.fromkeys(entry.program for entry in others))
        raise InvalidInput("peers", f"there is no peer in {folder}: it holds none of {programs}")
    family = FAMILIES.get(model, Family(Path(model).name, model))
    directory = folder / _MODELS / family.directory  # a whole path replaces what stands before it
    if not (directory / "config.json").exists():
        known = ", ".join(FAMILIES)
        raise InvalidInput("model", f"there is no model in {directory}; name one of {known}, or a directory with safetensors")
    contenders, missing = [], {}
    for entry in ENTRIES:
        program, file = folder / entry.program, _model_path(folder, entry, family, directory)
        absent = [str(path.relative_to(folder)) for path in (program, file) if not path.exists()]
        environment = _environment(folder, entry.peer)
        absent += [f"{name} for LD_PRELOAD" for name, library in _preloads(folder, entry.peer) if library is None]
        if absent:
            missing[entry.name] = f"not installed: no {' and no '.join(absent)}"
        else:
            options = _SETTINGS.get(entry.name, {})
            contenders.append(Contender(entry, str(program), str(file), options, environment))
    if all(contender.is_tiercel for contender in contenders):
        reasons = "; ".join(f"{entry.name}: {missing[entry.name]}" for entry in others)
        raise InvalidInput("peers", f"no peer can run {model}: {reasons}")
    return Installed(directory, tuple(contenders), missing)


def _model_path(folder: Path, entry: Entry, family: Family, directory: Path) -> Path:
    return directory if entry.model == _DIRECTORY else folder / entry.model.format(stem=family.stem)


def _environment(folder: Path, peer: str) -> dict[str, str]:
    if peer != "vllm":
        return {}
    preload = ":".join(str(library) for _, library in _preloads(folder, peer))
    cache = folder / "cache"
    return {"LD_PRELOAD": preload, "VLLM_CACHE_ROOT": f"{cache}/vllm", "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor"}


def _preloads(folder: Path, peer: str) -> Iterator[tuple[str, Path | None]]:
    """Libraries that a peer's guide asks to be loaded first, and where they are."""
    if peer == "vllm":
        tcmalloc, openmp = "libtcmalloc_minimal.so.4", "libiomp5.so"
        yield tcmalloc, next(Path("/usr/lib").glob(f"*/{tcmalloc}"), None)
        yield openmp, next((folder / "venv-vllm" / "lib").glob(openmp), None)
