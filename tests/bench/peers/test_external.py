"""Peers in processes of their own: the protocol, the pauses, and what is said when one fails."""

import sys
import time
from pathlib import Path

import pytest

from tiercel.bench.peers import load_peer
from tiercel.bench.peers.external import FOREIGN, IS_INTERPRETER, ExternalPeer, PeerSpec
from tiercel.types import InvalidInput, TiercelError

COUNTING = """
import os, sys
def load(program, model, threads):
    print("libraries talk")
    def generate(prompt, num_tokens):
        if num_tokens > 9:
            sys.exit("too many tokens")
        return float(sum(prompt)), float(threads + num_tokens)
    return generate
"""

SERVER = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert (options["-m"], options["-t"]) == ({model!r}, "2")
healthy = []

class Handler(BaseHTTPRequestHandler):
    def answer(self, code, content):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def do_GET(self):
        self.answer(200 if healthy else 503, {{}})
        healthy.append(True)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["ignore_eos"] and body["temperature"] == 0
        produced = min(body["n_predict"], 20)
        self.answer(200, {{"timings": {{"predicted_n": produced, "predicted_ms": len(body["prompt"]) / 1e3}}}})

HTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()
"""


def start(folder: Path, script: str = COUNTING) -> ExternalPeer:
    peer = folder / "peer.py"
    peer.write_text(script)
    return ExternalPeer("someone", [sys.executable, str(FOREIGN / "serve.py"), str(peer), "program", "model", "2"])


def state(peer: ExternalPeer) -> str:
    """R, S, T (stopped), ... as proc(5) has it."""
    stat = Path(f"/proc/{peer._process.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0]


def becomes(peer: ExternalPeer, wanted: str) -> bool:
    end = time.monotonic() + 10
    while state(peer) != wanted and time.monotonic() < end:
        time.sleep(0.01)
    return state(peer) == wanted


def test_it_generates_and_is_stopped_at_all_other_times(tmp_path: Path) -> None:
    peer = start(tmp_path)
    assert becomes(peer, "T")
    for _ in range(2):
        done = peer.generate([1, 2, 4], 5)
        assert (len(done.token_ids), done.first, done.per_token) == (5, 7.0, 7.0)
        assert becomes(peer, "T")


def test_it_ends_with_whoever_holds_it(tmp_path: Path) -> None:
    peer = start(tmp_path)
    process = peer._process
    del peer
    assert process.poll() is not None


def test_its_last_words_are_passed_on(tmp_path: Path) -> None:
    peer = start(tmp_path)
    with pytest.raises(TiercelError, match=r"someone ended with code 1: libraries talk\ntoo many tokens"):
        peer.generate([1], 10)
    with pytest.raises(TiercelError, match="ended with code 1"):
        peer.generate([1], 1)
    with pytest.raises(TiercelError, match=r"(?s)ended with code 1.*No module named 'nowhere'"):
        start(tmp_path, "import nowhere")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    program, model = tmp_path / "python", tmp_path / "model.gguf"
    program.touch()
    model.touch()
    spec = PeerSpec.parse(f"vllm={program}:{model}")
    assert spec.title == "vllm model"
    scripts = [str(FOREIGN / "serve.py"), str(FOREIGN / "vllm.py")]
    assert spec.command(3) == [str(program), *scripts, str(program), str(model), "3"]
    assert PeerSpec.parse(f"llamacpp={program}:{model}").command(1)[0] == sys.executable


@pytest.mark.parametrize("text", ["vllm=", "vllm=/bin/sh", "nobody=/bin/sh:/bin/sh", "=/bin/sh:/bin/sh", "vllm=/x:/y"])
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="peer"):
        load_peer(text, Path("unused"), 1)


def test_every_name_has_its_script() -> None:
    scripts = {path.stem for path in FOREIGN.glob("*.py")} - {"__init__", "serve"}
    assert scripts == set(IS_INTERPRETER)


def test_llamacpp_asks_its_server(tmp_path: Path) -> None:
    model, server = tmp_path / "some.gguf", tmp_path / "llama-server"
    model.touch()
    server.write_text(SERVER.format(python=sys.executable, model=str(model)))
    server.chmod(0o755)
    peer = load_peer(f"llamacpp={server}:{model}", Path("unused"), 2)
    assert peer.name == "llamacpp some"
    done = peer.generate(list(range(600)), 4)
    assert done.per_token == pytest.approx(0.6 / 1e3 / 3)
    assert done.first > 0
    with pytest.raises(TiercelError, match="30 tokens behind 600 were not generated"):
        peer.generate(list(range(600)), 30)
