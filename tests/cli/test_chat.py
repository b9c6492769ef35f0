"""`tiercel chat` with a conversation on standard input."""

from pathlib import Path

from tests.cli.conftest import Tiercel
from tiercel import LLM, SamplingParams

LONG = "tell me " + "more " * 30


def test_a_turn_sees_the_turns_before_it(tiercel: Tiercel, tiny_model: Path) -> None:
    shown = tiercel("chat", "-m", str(tiny_model), "--max-tokens", "8", stdin="hello\nand then?\n")
    llm, params = LLM(str(tiny_model)), SamplingParams(max_tokens=8, temperature=0.0)
    messages = [{"role": "user", "content": "hello"}]
    first = llm.chat(messages, params).text
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "and then?"}]
    assert (shown.code, shown.out) == (0, f"{first}\n{llm.chat(messages, params).text}\n")


def test_the_history_is_reused(tiercel: Tiercel, tiny_model: Path) -> None:
    shown = tiercel("chat", "-v", "-m", str(tiny_model), "--max-tokens", "8", stdin=f"{LONG}\nand then?\nand then?\n")
    first, second, third = shown.reused
    assert first == 0
    assert second >= 128
    assert third >= second


def test_a_new_process_goes_on_from_disk(tiercel: Tiercel, tiny_model: Path, tmp_path: Path) -> None:
    arguments = "chat", "-v", "-m", str(tiny_model), "--max-tokens", "8", "--kv-disk", f"{tmp_path / 'kv'}:1GiB"
    turns = f"{LONG}\n{LONG}\n"
    first, second = (tiercel(*arguments, stdin=turns) for _ in range(2))
    assert first.out == second.out
    assert "0 reused; first token" in first.err
    assert "128 reused (0 from memory, 128 from disk)" in second.err
    assert "320 reused (128 from memory, 192 from disk)" in second.err


def test_reset_forgets_the_conversation(tiercel: Tiercel, tiny_model: Path) -> None:
    arguments = "chat", "-m", str(tiny_model), "--max-tokens", "8", "--system", "be brief"
    shown = tiercel(*arguments, stdin="hello\n/reset\n\nhello\n")
    alone = tiercel(*arguments, stdin="hello\n")
    assert shown.out == alone.out * 2


def test_exit_leaves(tiercel: Tiercel, tiny_model: Path) -> None:
    shown = tiercel("chat", "-m", str(tiny_model), stdin="/exit\nhello\n")
    assert (shown.code, shown.out) == (0, "")


def test_unknown_commands_are_named(tiercel: Tiercel, tiny_model: Path) -> None:
    shown = tiercel("chat", "-m", str(tiny_model), stdin="/nonsense now\n/help\n")
    assert shown.out == ""
    assert "unknown command /nonsense" in shown.err
    assert shown.err.count("/reset forgets") == 2


def test_a_conversation_that_grew_too_long_can_go_on(tiercel: Tiercel, tiny_model: Path) -> None:
    arguments = "chat", "-m", str(tiny_model), "--max-tokens", "8", "--max-model-len", "128"
    shown = tiercel(*arguments, stdin=f"hello\n{LONG}\n/reset\nhello\n")
    alone = tiercel(*arguments, stdin="hello\n")
    assert shown.code == 0
    assert "prompt: has" in shown.err
    assert shown.out == alone.out * 2


def test_a_model_without_template_cannot_chat(tiercel: Tiercel, tiny_model: Path, tmp_path: Path) -> None:
    for file in tiny_model.iterdir():
        if file.name != "tokenizer_config.json":
            (tmp_path / file.name).symlink_to(file)
    shown = tiercel("chat", "-m", str(tmp_path), stdin="hello\n")
    assert "no chat template" in shown.err
