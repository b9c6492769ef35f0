"""The disk tier of a whole engine: kept over restarts, shared by equal models, and never in the way."""

import subprocess
import sys

import pytest

from tests.support.model_files import write_tiny_gguf
from tiercel import LLM, SamplingParams
from tiercel.models import convert_model
from tiercel.types import BLOCK_TOKENS, InvalidInput

B = BLOCK_TOKENS
PROMPT = [3 + i % 200 for i in range(5 * B + 7)]
GREEDY = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


def ask(model, disk, prompt=PROMPT, **settings):
    with LLM(str(model), kv_disk=str(disk), kv_disk_min_tokens=0, kv_memory="64MiB", **settings) as llm:
        (output,) = llm.generate([prompt], GREEDY)
    return output


def test_a_new_engine_finds_what_the_old_one_computed(model, tmp_path):
    first, second = (ask(model, tmp_path / "kv") for _ in range(2))
    assert (first.reuse.stored_tokens, second.reuse.stored_tokens) == (0, 5 * B)
    assert first.samples[0].token_ids == second.samples[0].token_ids
    assert (first.reuse.miss.reason, second.reuse.miss.reason) == ("first_seen", "partial_block")


def test_an_answer_is_kept_like_a_prompt(model, tmp_path):
    with LLM(str(model), kv_disk=str(tmp_path / "kv"), kv_disk_min_tokens=0, kv_memory="64MiB") as llm:
        (output,) = llm.generate([PROMPT], SamplingParams(max_tokens=2 * B, temperature=0.0, ignore_eos=True))
    conversation = [*PROMPT, *output.samples[0].token_ids, 5, 6, 7]
    assert ask(model, tmp_path / "kv", conversation).reuse.stored_tokens == (len(PROMPT) + 2 * B - 1) // B * B


def test_a_converted_copy_takes_over_the_kv_of_its_original(model, tmp_path):
    original = ask(model, tmp_path / "kv")
    convert_model(model, tmp_path / "copy")
    copy = ask(tmp_path / "copy", tmp_path / "kv")
    assert copy.reuse.stored_tokens == 5 * B
    assert copy.samples[0].token_ids == original.samples[0].token_ids


@pytest.mark.parametrize("settings", [{"tenant": "other"}, {"kv_dtype": "bfloat16"}])
def test_who_may_not_share_does_not(model, tmp_path, settings):
    ask(model, tmp_path / "kv")
    assert ask(model, tmp_path / "kv", **settings).reuse.stored_tokens == 0


def test_another_arithmetic_is_named_and_another_tenant_is_not(model, tmp_path):
    ask(model, tmp_path / "kv")
    misses = []
    for settings in ({"kv_dtype": "bfloat16"}, {"tenant": "other"}):
        with LLM(str(model), kv_disk=str(tmp_path / "kv"), kv_memory="64MiB", **settings) as llm:
            while not llm.core.manager.tier.introduced:
                llm.generate([[1, 2, 3]], GREEDY)
            misses.append(llm.generate([PROMPT], GREEDY)[0].reuse.miss)
    assert [miss.reason for miss in misses] == ["other_namespace", "first_seen"]
    assert "arithmetic" in misses[0].detail


def test_off_leaves_nothing_behind(model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ask(model, "off").reuse.stored_tokens == 0
    assert list(tmp_path.iterdir()) == []


def test_without_prefix_caching_there_is_no_disk_either(model, tmp_path):
    ask(model, tmp_path / "kv", prefix_caching=False)
    assert not (tmp_path / "kv").exists()


def test_the_default_is_the_users_cache_folder(model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ask(model, "auto")
    assert list(tmp_path.glob("tiercel/kv/v*/*/*/*.kv"))


def test_a_folder_that_cannot_be_is_an_error_if_it_was_named_and_a_warning_if_not(model, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidInput, match=r"kv_disk.*cannot keep KV"):
        ask(model, tmp_path / "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert ask(model, "auto").reuse.computed_tokens == len(PROMPT)
    assert "KV is not kept on disk" in caplog.text


def test_a_program_that_just_ends_loses_nothing(model, tmp_path):
    program = (
        "import sys; from tiercel import LLM, SamplingParams\n"
        "llm = LLM(sys.argv[1], kv_disk=sys.argv[2], kv_disk_min_tokens=0, kv_memory='64MiB')\n"
        "llm.generate([[3 + i % 200 for i in range(327)]], SamplingParams(max_tokens=1))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(model), str(tmp_path / "kv")], check=True, timeout=120)
    assert ask(model, tmp_path / "kv").reuse.stored_tokens == 5 * B


def test_the_plan_says_where(model, tmp_path):
    with LLM(str(model), kv_disk=f"{tmp_path / 'kv'}:1GiB", kv_memory="64MiB") as llm:
        assert f"up to 1.0 GiB more in {tmp_path / 'kv'}" in str(llm.plan)
