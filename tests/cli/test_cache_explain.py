"""`tiercel cache explain`: what it tells is what `tiercel run` then does."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Tiercel
from tests.support.model_files import hf_tensors, write_directory

TEXT = "The quick brown fox jumps over the lazy dog. " * 8
RUN = "--max-tokens", "1", "--kv-memory", "4MiB"


@pytest.fixture
def options(tiny_model: Path, tmp_path: Path) -> tuple[str, ...]:
    """A model, and a folder of its own for what it computes."""
    return "-m", str(tiny_model), "--kv-disk", f"{tmp_path / 'kv'}:1GiB"


def told(tiercel: Tiercel, *arguments: str, stdin: str = "") -> dict:
    shown = tiercel("cache", "explain", "--json", *arguments, stdin=stdin)
    assert shown.code == 0, shown.err
    return json.loads(shown.out)


def from_disk(err: str) -> list[int]:
    """Tokens that answers took from disk, from the lines of figures."""
    return [int(number) for number in re.findall(r"(\d+) from disk", err)]


def test_what_is_told_is_what_a_new_process_takes(tiercel: Tiercel, options: tuple[str, ...]) -> None:
    assert told(tiercel, TEXT, *options)["miss"]["reason"] == "first_seen"
    cold = tiercel("run", TEXT, "-v", *RUN, *options)
    assert "0 reused; first token" in cold.err
    for prompt in (TEXT, TEXT[:200], TEXT + "And then it slept. " * 9):
        foretold = told(tiercel, prompt, *options)
        assert foretold["stored_tokens"] > 0
        warm = tiercel("run", prompt, "-v", *RUN, *options)
        assert from_disk(warm.err) == [foretold["stored_tokens"]]
        assert f"{foretold['prompt_tokens']} prompt tokens, {foretold['stored_tokens']} reused (0 from memory" in warm.err


def test_nothing_is_computed_or_kept(tiercel: Tiercel, options: tuple[str, ...], tmp_path: Path) -> None:
    shown = tiercel("cache", "explain", TEXT, *options)
    assert (shown.code, (tmp_path / "kv").exists()) == (0, False)
    assert "nothing stored yet" in shown.err


def test_the_first_token_that_differs_is_shown_as_text(tiercel: Tiercel, options: tuple[str, ...]) -> None:
    tiercel("run", TEXT, *RUN, *options)
    changed = TEXT[:150] + "X" + TEXT[151:]
    miss = told(tiercel, changed, *options)["miss"]
    assert (miss["reason"], miss["text"], miss["cached_text"]) == ("differs", "X", TEXT[150])
    shown = tiercel("cache", "explain", changed, *options)
    assert shown.code == 0
    rows = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in shown.out.splitlines() if re.search(r"\S  +\S", line))
    assert rows["after"] == repr(TEXT[138:150])
    assert (rows["the prompt has"], rows["stored is"]) == ("'X'", repr(TEXT[150]))
    assert rows["why"] == f"differs, from token {miss['position']} on"


def test_prompts_from_everywhere_are_those_of_run(tiercel: Tiercel, options: tuple[str, ...], tmp_path: Path) -> None:
    tiercel("run", TEXT, "--system", "Be brief.", *RUN, *options)
    (tmp_path / "prompt.txt").write_text(TEXT)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}]
    system = "--system", "Be brief."
    expected = told(tiercel, TEXT, *system, *options)
    assert expected["stored_tokens"] == expected["prompt_tokens"] // 64 * 64
    assert told(tiercel, "-", *system, *options, stdin=TEXT) == expected
    assert told(tiercel, "--file", str(tmp_path / "prompt.txt"), *system, *options) == expected
    assert told(tiercel, "--file", "-", *system, *options, stdin=TEXT) == expected
    assert told(tiercel, "--messages", json.dumps(messages), *options) == expected
    assert told(tiercel, TEXT, "--raw", *options)["stored_tokens"] == 0
    tiercel("run", TEXT, "--raw", *RUN, *options)
    assert told(tiercel, TEXT, "--raw", *options)["stored_tokens"] == len(TEXT) // 64 * 64


def test_other_weights_and_other_settings_are_named(
    tiercel: Tiercel, options: tuple[str, ...], tmp_path: Path, tiny_model: Path
) -> None:
    from safetensors.numpy import save_file

    tiercel("run", TEXT, *RUN, *options)
    miss = told(tiercel, TEXT, *options, "--kv-dtype", "bfloat16")["miss"]
    assert (miss["reason"], "other arithmetic" in miss["detail"]) == ("other_namespace", True)
    other = write_directory(tmp_path / "other", max_position_embeddings=4096)
    save_file(hf_tensors(seed=1), other / "model.safetensors")
    miss = told(tiercel, TEXT, *options, "-m", str(other))["miss"]
    assert (miss["reason"], "other weights" in miss["detail"]) == ("other_namespace", True)
    assert told(tiercel, TEXT, *options, "--tenant", "me")["miss"]["reason"] == "first_seen"
    assert told(tiercel, TEXT, *options, "--salt", "me")["miss"]["reason"] == "first_seen"


def test_damage_is_found_without_an_engine(tiercel: Tiercel, options: tuple[str, ...], tmp_path: Path) -> None:
    tiercel("run", TEXT, *RUN, *options)
    whole = told(tiercel, TEXT, *options)
    for file in (tmp_path / "kv").rglob("*"):
        if file.is_file() and file.stat().st_size > 4096:
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)
    damaged = told(tiercel, TEXT, *options)
    assert (damaged["stored_tokens"], damaged["bytes"], damaged["miss"]["reason"]) == (0, 0, "corrupt")
    assert whole["bytes"] > 0


def test_short_contexts_are_told_why_they_are_not_kept(tiercel: Tiercel, options: tuple[str, ...]) -> None:
    shown = tiercel("cache", "explain", "x" * 100, *options)
    assert "contexts below 256 tokens are not written" in " ".join(shown.out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "prompt: give one prompt"),
        (["one", "--file", "two"], "prompt: give one prompt"),
        (["--file", "/nowhere/prompt"], "--file: cannot read /nowhere/prompt"),
        (["--messages", "{"], "messages: no JSON"),
        (["--messages", '{"role": "user"}'], "messages: must be a list"),
        (["--messages", "[]"], "messages: must not be empty"),
        (["hello", "--kv-disk", "off"], "--kv-disk: "),
        (["hello", "--prefix-caching", "off"], "--prefix-caching: is off"),
    ],
)
def test_errors_are_one_line(tiercel: Tiercel, options: tuple[str, ...], arguments: list[str], message: str) -> None:
    shown = tiercel("cache", "explain", *options, *arguments)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.splitlines()[-1].startswith("Error: " + message)
