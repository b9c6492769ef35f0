"""Where tokens came from, as clients are told: by a real server that was started anew, and what they must not be told."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.server.fake_llm import FakeLLM
from tests.server.process import ServerProcess, running_server
from tests.server.serving import serving
from tests.server.test_generation import events
from tests.support.engines import Setup, make_core, run_to_end, submit
from tests.support.model_files import write_directory
from tiercel.types import Miss, Reuse

STORED = [token % 200 for token in range(270)]  # 4 whole blocks of 64 tokens and a rest
SHARED = [token % 199 for token in range(300)]
ASK = {"cache_report": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server over the store that another one, which has ended, wrote STORED into."""
    folder = tmp_path_factory.mktemp("served")
    model = write_directory(folder / "model", max_position_embeddings=1024)
    options = "-m", str(model), "--kv-memory", "4MiB", "--threads", "1", "--kv-disk", f"{folder / 'kv'}:1GiB"
    with running_server(*options) as first:
        for prompt in (STORED, STORED[:64]):
            body = {"prompt": prompt, "max_tokens": 1}
            assert "tiercel" not in httpx.post(f"{first.url}/v1/completions", json=body, timeout=60).json()
        assert first.terminate() == 0
    with running_server(*options) as second:
        assert second.url
        yield second
        assert second.terminate() == 0


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def ask(client: openai.OpenAI, prompt: object, **fields: object) -> list[dict]:
    """The report of a completion."""
    answer = client.completions.create(model="model", prompt=prompt, max_tokens=1, extra_body=ASK | fields)
    return answer.tiercel["cache"]


def test_a_new_process_says_what_came_from_the_store_and_then_from_memory(client: openai.OpenAI) -> None:
    (first,) = ask(client, STORED)
    (second,) = ask(client, STORED)
    detail = first["miss"].pop("detail")
    assert first == {
        "prompt_tokens": 270,
        "device_tokens": 0,
        "stored_tokens": 256,
        "computed_tokens": 14,
        "miss": {"reason": "partial_block", "position": 256, "cached_token": None},
    }
    assert "64 tokens" in detail
    assert (second["device_tokens"], second["stored_tokens"]) == (256, 0)


def test_each_prompt_has_its_own(client: openai.OpenAI, server: ServerProcess) -> None:
    before = server.metrics()
    reports = ask(client, [[7] * 100, STORED, [8] * 100], n=2)
    assert [report["prompt_tokens"] for report in reports] == [100, 270, 100]
    assert reports[1]["computed_tokens"] == 14
    after = server.metrics()
    partial = 'tiercel_prefix_misses_total{reason="partial_block"}'
    assert after[partial] == before[partial] + 1


def test_chat_and_streams(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "tell me " * 30}]
    settings = {"model": "model", "messages": messages, "max_completion_tokens": 3, "extra_body": ASK}
    (first,) = client.chat.completions.create(**settings).tiercel["cache"]
    *chunks, last = client.chat.completions.create(**settings, stream=True)
    assert all("tiercel" not in chunk.model_extra for chunk in chunks)
    assert (last.choices, last.usage) == ([], None)
    (again,) = last.tiercel["cache"]
    assert again["device_tokens"] == again["miss"]["position"] == first["prompt_tokens"] // 64 * 64
    *_, last = client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    assert last.tiercel["cache"] == [again]
    assert last.usage.prompt_tokens_details.cached_tokens == again["device_tokens"]
    *_, last = client.completions.create(model="model", prompt=STORED, max_tokens=2, stream=True, extra_body=ASK)
    assert last.tiercel["cache"][0]["prompt_tokens"] == 270


def test_the_first_differing_token_is_told_within_a_salt(client: openai.OpenAI) -> None:
    ask(client, SHARED, cache_salt="mine")
    (report,) = ask(client, [*SHARED[:140], *[9] * 100], cache_salt="mine")
    assert report["device_tokens"] == 128
    assert (report["miss"]["reason"], report["miss"]["position"]) == ("differs", 140)
    assert report["miss"]["cached_token"] == SHARED[140]


def test_without_a_salt_nobody_is_told_the_tokens_of_a_prompt_that_may_be_anothers(client: openai.OpenAI) -> None:
    (report,) = ask(client, [*STORED[:140], *[9] * 100])
    assert (report["miss"]["reason"], report["miss"]["position"], report["miss"]["cached_token"]) == ("differs", 128, None)
    assert str(STORED[140]) not in report["miss"]["detail"]


@pytest.mark.parametrize(("number", "salt", "known"), [(1, "theirs", 200), (2, "hers", 70), (3, None, 200), (4, None, 70)])
def test_one_salt_learns_nothing_of_another(client: openai.OpenAI, number: int, salt: str | None, known: int) -> None:
    secret = [100 + number, *range(199)]  # no two cases begin alike
    ask(client, secret, cache_salt="mine")
    (report,) = ask(client, [*secret[:known], *[3] * (200 - known)], cache_salt=salt)
    assert (report["computed_tokens"], report["miss"]["position"]) == (200, 0)
    if salt is not None:  # prompts without a salt are compared with each other
        assert report["miss"]["reason"] == "first_seen"


def test_one_salt_does_not_learn_what_another_has_lost() -> None:
    core = make_core(Setup(num_blocks=8))
    prompt = [token % 50 for token in range(300)]

    def miss(name: str, tokens: list[int], salt: str) -> Miss:
        core.submit(submit(name, tokens, salt=salt, max_tokens=1))
        while (updates := core.step()) == []:
            pass
        run_to_end(core)
        assert updates[0].reuse is not None
        return updates[0].reuse.miss

    assert miss("a", prompt, "mine").reason == "first_seen"
    miss("b", [11] * 500, "mine")  # takes all there is
    assert miss("c", prompt, "theirs").reason == "first_seen"
    miss("d", [11] * 500, "mine")
    assert miss("e", prompt, "mine").reason == "not_written"


def test_what_the_machine_says_of_a_store_stays_on_it() -> None:
    lost = Miss(reason="store_failed", position=1, detail="[Errno 5] Input/output error: '/home/me/.cache'")
    with serving(FakeLLM(miss=lost)) as url:
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": "hi", "max_tokens": 1} | ASK)
    (report,) = answer.json()["tiercel"]["cache"]
    assert report["miss"]["reason"] == "store_failed"
    assert "/home" not in answer.text


def test_a_stream_that_breaks_has_no_report() -> None:
    with serving(FakeLLM(fail_after=1)) as url:
        body = {"prompt": "hi", "max_tokens": 3, "stream": True} | ASK
        chunks = events(httpx.post(f"{url}/v1/completions", json=body))
    assert "error" in chunks[-1]
    assert not any("tiercel" in chunk for chunk in chunks)


def test_what_is_computed_is_the_rest() -> None:
    reuse = Reuse(prompt_tokens=100, device_tokens=64, stored_tokens=0, miss=Miss(reason="partial_block", position=64))
    assert reuse.computed_tokens == 36
