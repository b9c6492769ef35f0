"""`tiercel cache warm`: afterwards a new process finds every prompt on disk."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Finished, Tiercel
from tiercel import LLM, SamplingParams

TEXT = "The quick brown fox jumps over the lazy dog. " * 5
CHAT = [{"role": "user", "content": TEXT}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
ONE = SamplingParams(max_tokens=1, temperature=0.0)


@pytest.fixture
def options(tiny_model: Path, tmp_path: Path) -> tuple[str, ...]:
    return "-m", str(tiny_model), "--kv-disk", f"{tmp_path / 'kv'}:1GiB", "--kv-memory", "1MiB"


def write_lines(path: Path, *lines: object) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def figures(shown: Finished) -> dict[str, int]:
    assert shown.code == 0, shown.err
    return json.loads(shown.out)


def missing(llm: LLM, token_ids: list[int]) -> int:
    """Whole blocks of a prompt that a new process has to compute."""
    (output,) = llm.generate([token_ids], ONE)
    return (len(token_ids) - 1) // 64 - output.cached_tokens // 64


def test_every_line_is_found_by_the_next_process(
    tiercel: Tiercel, options: tuple[str, ...], tiny_model: Path, tmp_path: Path
) -> None:
    file = write_lines(
        tmp_path / "p.jsonl", {"prompt": TEXT}, "", {"messages": CHAT}, {"messages": CHAT, "tools": TOOLS}, {"prompt": "short"}
    )
    first = figures(tiercel("cache", "warm", file, "--json", *options))
    assert (first["prompts"], first["blocks_lost"]) == (4, 0)
    assert first["blocks_written"] > 0
    assert first["bytes_written"] == sum(
        f.stat().st_size for f in (tmp_path / "kv").rglob("*") if f.stat().st_size > 4096 and f.is_file()
    )
    with LLM(str(tiny_model), kv_disk=options[3], kv_memory="1MiB") as llm:
        prompts = [llm.tokenizer.encode(TEXT), llm.encode_chat(CHAT), llm.encode_chat(CHAT, TOOLS)]
        assert [missing(llm, prompt) for prompt in prompts] == [0, 0, 0]
        total = sum(map(len, prompts)) + len("short")
    assert first["tokens_computed"] + first["tokens_found"] == total
    again = figures(tiercel("cache", "warm", file, "--json", *options))
    assert (again["blocks_written"], again["tokens_computed"]) == (0, total - again["tokens_found"])
    assert again["tokens_computed"] < 64 * 4 < first["tokens_computed"]


def test_a_text_is_one_prompt_as_run_takes_it(tiercel: Tiercel, options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "essay.txt").write_text(TEXT)
    for extra in ([], ["--system", "Be brief."], ["--raw"]):
        shown = tiercel("cache", "warm", str(tmp_path / "essay.txt"), *extra, *options)
        assert (shown.code, shown.out.startswith("1 prompts: ")) == (0, True)
        run = tiercel("run", TEXT, "-v", "--max-tokens", "1", *extra, *options)
        assert run.reused[0] >= 192
        assert "(0 from memory" in run.err


def test_standard_input(tiercel: Tiercel, options: tuple[str, ...]) -> None:
    lines = figures(tiercel("cache", "warm", "-", "--json", *options, stdin=json.dumps({"prompt": TEXT})))
    text = figures(tiercel("cache", "warm", "-", "--format", "text", "--raw", "--json", *options, stdin=TEXT))
    assert lines["blocks_written"] == len(TEXT) // 64
    assert (text["prompts"], text["blocks_written"], text["tokens_found"]) == (1, 0, len(TEXT) // 64 * 64)


def test_more_prompts_than_the_device_holds(tiercel: Tiercel, options: tuple[str, ...], tmp_path: Path) -> None:
    prompts = [f"{number} " * 100 for number in range(10, 22)]
    file = write_lines(tmp_path / "many.jsonl", *({"prompt": prompt} for prompt in prompts))
    small = (*options[:-1], "128KiB")  # 8 blocks
    done = figures(tiercel("cache", "warm", file, "--json", *small))
    assert (done["prompts"], done["blocks_written"], done["blocks_lost"]) == (12, 12 * 4, 0)
    assert figures(tiercel("cache", "warm", file, "--json", *small))["tokens_found"] == 12 * 4 * 64


def test_limits_meant_for_passing_prompts_do_not_count(tiercel: Tiercel, options: tuple[str, ...]) -> None:
    strict = "--kv-disk-min-tokens", "100000", "--kv-disk-touches", "9"
    done = figures(tiercel("cache", "warm", "-", "--json", *options, *strict, stdin=json.dumps({"prompt": "x" * 65})))
    assert done["blocks_written"] == 1


def test_a_full_disk_is_told(tiercel: Tiercel, options: tuple[str, ...]) -> None:
    full = (*options, "--kv-disk-free", "1000000TiB")
    shown = tiercel("cache", "warm", "-", *full, stdin=json.dumps({"prompt": TEXT}))
    assert shown.code == 1
    assert "the store takes no more; 0 of 1 prompts" in shown.err
    shown = tiercel("cache", "warm", "-", *full, stdin=json.dumps({"prompt": TEXT[:100]}))
    assert shown.code == 1
    assert "1 blocks were computed and could not be written" in shown.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "no JSON"),
        ('"text"', "must be"),
        ('{"promt": "x"}', "must be"),
        ('{"prompt": "x", "stop": "y"}', "must be"),
        ('{"prompt": 5}', "must be"),
        ('{"prompt": "x", "messages": []}', "must be"),
        ('{"messages": "hi"}', "must be a list"),
        ('{"messages": []}', "must not be empty"),
        ('{"prompt": ""}', "0 tokens"),
        (json.dumps({"prompt": "x" * 5000}), "5,000 tokens"),
    ],
)
def test_the_line_is_named_and_nothing_computed(
    tiercel: Tiercel, options: tuple[str, ...], tmp_path: Path, line: str, message: str
) -> None:
    file = write_lines(tmp_path / "p.jsonl", {"prompt": TEXT}, "", line)
    shown = tiercel("cache", "warm", file, *options)
    assert (shown.code, shown.out) == (2, "")
    error = shown.err.splitlines()[-1]
    assert error.startswith(f"Error: source: {file}, line 3: ")
    assert message in error
    assert not [f for f in (tmp_path / "kv").rglob("*") if f.is_file() and f.stat().st_size > 4096]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere/file"], "source: cannot read /nowhere/file"),
        (["-", "--format", "yaml"], "--format: must be one of"),
        (["-", "--raw"], "--raw: belongs to a text"),
        (["-", "--system", "x"], "--system: belongs to a text"),
        (["-", "--kv-disk", "off"], "--kv-disk: "),
        (["-", "--prefix-caching", "off"], "--prefix-caching: is off"),
    ],
)
def test_errors_are_one_line(tiercel: Tiercel, options: tuple[str, ...], arguments: list[str], message: str) -> None:
    shown = tiercel("cache", "warm", *options, *arguments)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.splitlines()[-1].startswith("Error: " + message)
