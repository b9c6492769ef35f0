"""Peers in processes of their own: the protocol, the pauses, and what is said when one fails."""

import sys
import time
from pathlib import Path

import pytest

from tiercel.bench.peers import load_peer
from tiercel.bench.peers.external import FOREIGN, IS_INTERPRETER, ExternalPeer, PeerSpec, serve_command
from tiercel.bench.workload import Workload
from tiercel.types import InvalidInput, TiercelError

COUNTING = """
import os, sys, time
class Peer:
    def __init__(self, program, model, threads, bonus=0):
        print("libraries talk")
        self.threads, self.bonus = threads, bonus
    def generate(self, prompts, num_tokens):
        if num_tokens > 9:
            sys.exit("too many tokens")
        if prompts == [[0]]:
            return []
        return [(float(sum(prompt)), float(sum(prompt) + self.threads + self.bonus + num_tokens)) for prompt in prompts]
    def keep(self):
        time.sleep(0.01)
    def recall(self):
        sys.exit(os.environ["REASON"])
"""

SERVER = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert (options["-m"], options["-t"]) == ({model!r}, "2")
healthy = []

def note(text):
    with open({log!r}, "a") as log:
        print(text, file=log)

note(f"start -c {{options['-c']}} -np {{options['-np']}}")

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
        if self.path.startswith("/slots/0?action="):
            folder = options.get("--slot-save-path")
            note(f"{{self.path.rpartition('=')[2]}} {{body['filename']}} in {{folder}}")
            return self.answer(200 if folder else 501, {{}})
        note(f"slot {{body['id_slot']}}")
        assert body["ignore_eos"] and body["temperature"] == 0
        produced = min(body["n_predict"], 20)
        self.answer(200, {{"timings": {{"predicted_n": produced, "predicted_ms": len(body["prompt"]) / 1e3}}}})

HTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()
"""


def start(folder: Path, script: str = COUNTING, **options: object) -> ExternalPeer:
    peer = folder / "peer.py"
    peer.write_text(script)
    command = serve_command(sys.executable, str(peer), "program", "model", 2, options)
    return ExternalPeer("someone", command, {"REASON": "no memory"})


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
        assert (len(done.token_ids), done.first, done.per_token) == (5, 7.0, 7.0 / 4)
        assert becomes(peer, "T")


def test_it_generates_for_many(tmp_path: Path) -> None:
    peer = start(tmp_path, bonus=100)
    assert peer.generate_many([[1, 2], [3]], 5) == [(3.0, 110.0), (3.0, 110.0)]
    assert becomes(peer, "T")
    with pytest.raises(TiercelError, match="someone answered 0 of 1 prompts"):
        peer.generate_many([[0]], 5)


def test_it_keeps_and_recalls(tmp_path: Path) -> None:
    peer = start(tmp_path)
    assert peer.keep() >= 0.01
    assert becomes(peer, "T")
    with pytest.raises(TiercelError, match="no memory"):
        peer.recall()


def test_its_memory_is_that_of_all_its_processes(tmp_path: Path) -> None:
    fat = "held = bytearray(50 << 20)\n"
    child = "subprocess.Popen([sys.executable, '-c', 'print(flush=True); input()'], stdin=-1, stdout=-1)"
    waits = f"import subprocess, sys\nchild = {child}\nchild.stdout.readline()\n"
    lean, fed = start(tmp_path), start(tmp_path, fat + COUNTING)
    alone = lean.peak_memory()
    assert 1 << 20 < alone < 50 << 20 < fed.peak_memory()
    pair = start(tmp_path, waits + COUNTING)
    assert alone < pair.peak_memory() < 50 << 20
    pair._counts_itself = False
    assert 1 << 20 < pair.peak_memory() < alone + (1 << 20)
    lean._counts_itself = False
    assert lean.peak_memory() == 0


def test_it_can_be_closed(tmp_path: Path) -> None:
    peer = start(tmp_path)
    peer.close()
    assert peer._process.poll() is not None
    peer.close()


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
    assert spec.command(3) == [str(program), *scripts, str(program), str(model), "3", "{}"]
    assert spec.command(3, {"kv_gib": 1})[-1] == '{"kv_gib": 1}'
    assert PeerSpec.parse(f"llamacpp={program}:{model}").command(1)[0] == sys.executable


@pytest.mark.parametrize("text", ["vllm=", "vllm=/bin/sh", "nobody=/bin/sh:/bin/sh", "=/bin/sh:/bin/sh", "vllm=/x:/y"])
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="peer"):
        load_peer(text, Path("unused"), 1)


def test_every_name_has_its_script() -> None:
    scripts = {path.stem for path in FOREIGN.glob("*.py")} - {"__init__", "serve"}
    assert scripts == set(IS_INTERPRETER)


def llamacpp(place: Path, **options: object) -> ExternalPeer:
    model, server = place / "some.gguf", place / "llama-server"
    model.touch()
    server.write_text(SERVER.format(python=sys.executable, model=str(model), log=str(place / "log")))
    server.chmod(0o755)
    spec = PeerSpec.parse(f"llamacpp={server}:{model}")
    return ExternalPeer(spec.title, spec.command(2, options), counts_itself=False)


def log(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


def test_llamacpp_asks_its_server(tmp_path: Path) -> None:
    peer = llamacpp(tmp_path)
    assert peer.name == "llamacpp some"
    done = peer.generate(list(range(600)), 4)
    assert done.per_token == pytest.approx(0.6 / 1e3 / 3)
    assert done.first > 0
    assert log(tmp_path) == ["start -c 8192 -np 1", "slot 0"]
    with pytest.raises(TiercelError, match="30 tokens behind 600 were not generated"):
        peer.generate(list(range(600)), 30)


def test_llamacpp_has_a_slot_for_each_of_many(tmp_path: Path) -> None:
    peer = llamacpp(tmp_path)
    times = peer.generate_many([[1] * 250, [1] * 100, [1] * 300], 7)
    assert [each.last - each.first for each in times] == pytest.approx([0.25 / 1e3, 0.1 / 1e3, 0.3 / 1e3])
    *starts, _, _, _ = log(tmp_path)
    assert starts == ["start -c 8192 -np 1", f"start -c {3 * 512} -np 3"]
    assert sorted(log(tmp_path)[2:]) == ["slot 0", "slot 1", "slot 2"]
    peer.generate_many([[1] * 9, [1] * 9, [1] * 9], 7)
    assert len(log(tmp_path)) == 8
    peer.generate([1] * 9, 7)
    assert log(tmp_path)[8:] == ["start -c 8192 -np 1", "slot 0"]
    assert 1 << 20 < peer.peak_memory() < 100 << 20


def test_llamacpp_keeps_its_slot(tmp_path: Path) -> None:
    peer = llamacpp(tmp_path, folder=str(tmp_path))
    peer.keep()
    peer.recall()
    assert log(tmp_path)[1:] == [f"{action} slot.kv in {tmp_path}" for action in ("save", "restore")]
    with pytest.raises(TiercelError, match="does not save a slot"):
        llamacpp(tmp_path).keep()


def test_transformers_batches_prompts_of_one_length(tiny_model: Path, tmp_path: Path) -> None:
    spec = PeerSpec("transformers", sys.executable, str(tiny_model))
    peer = ExternalPeer(spec.title, spec.command(1))
    prompts = Workload(259).prompts(3, 20)
    alike = peer.generate_many(prompts, 3)
    assert len(set(alike)) == 1
    assert 0 < alike[0].first < alike[0].last
    apart = peer.generate_many([prompts[0], prompts[1][:9]], 3)
    assert apart[0].last < apart[1].first
