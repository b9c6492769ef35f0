"""The official client against the real server and the real model."""

import asyncio
import json
import re

import openai
import pytest

MODEL = "smollm2"
CHAT = [{"role": "user", "content": "Name the capital of France."}]
PROMPT = "The capital of France is"
LONG_PROMPT = "The quick brown fox jumps over the lazy dog. " * 30


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def complete(client: openai.OpenAI, prompt: object = PROMPT, **settings: object):
    return client.completions.create(**{"model": MODEL, "prompt": prompt, "max_tokens": 8, "temperature": 0, **settings})


def chat(client: openai.OpenAI, **settings: object):
    return client.chat.completions.create(
        **{"model": MODEL, "messages": CHAT, "max_completion_tokens": 8, "temperature": 0, **settings}
    )


def test_models(client):
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL) == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def test_completion(client):
    answer = complete(client)
    assert "Paris" in answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    assert (answer.object, answer.model) == ("text_completion", MODEL)


def test_streamed_completion_is_the_same(client):
    whole = complete(client).choices[0].text
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks[:-1]) == whole
    assert len(chunks) > 4
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 8
    assert all(c.usage is None for c in chunks[:-1])


def test_chat(client):
    answer = chat(client, max_completion_tokens=24)
    message = answer.choices[0].message
    assert message.role == "assistant"
    assert "Paris" in message.content
    chunks = list(chat(client, max_completion_tokens=24, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == [answer.choices[0].finish_reason]
    assert len({c.id for c in chunks}) == 1


def test_chat_stream_helper_rebuilds_the_answer(client):
    whole = chat(client)
    with client.chat.completions.stream(
        model=MODEL, messages=CHAT, max_completion_tokens=8, temperature=0, stream_options={"include_usage": True}
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.usage == whole.usage.model_copy(update={"prompt_tokens_details": final.usage.prompt_tokens_details})


def test_content_parts_and_developer_role_read_as_text_and_system(client):
    parts = [{"type": "text", "text": "Name the capital "}, {"type": "text", "text": "of France."}]
    plain = chat(client, messages=[{"role": "system", "content": "Be brief."}, *CHAT])
    other = chat(client, messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}])
    assert other.choices[0].message.content == plain.choices[0].message.content
    assert other.usage.prompt_tokens == plain.usage.prompt_tokens


def test_token_ids_batches_and_echo(client, server):
    batch = complete(client, ["The capital of France is", "Two plus two is"], max_tokens=4)
    alone = [complete(client, p, max_tokens=4).choices[0].text for p in ("The capital of France is", "Two plus two is")]
    assert [c.text for c in batch.choices] == alone
    assert [c.index for c in batch.choices] == [0, 1]
    echoed = complete(client, echo=True, max_tokens=4)
    assert echoed.choices[0].text == PROMPT + alone[0]


def test_samples_differ_and_are_indexed(client):
    answer = complete(client, "My favourite word is", n=4, temperature=1.5, seed=3)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert len({c.text for c in answer.choices}) > 1
    assert answer.usage.completion_tokens == sum(8 for _ in answer.choices)
    streamed = dict.fromkeys(range(4), "")
    for chunk in complete(client, "My favourite word is", n=4, temperature=1.5, seed=3, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert list(streamed.values()) == [c.text for c in answer.choices]


def test_seed_makes_a_sample_repeatable(client):
    texts = [complete(client, temperature=1.5, seed=seed).choices[0].text for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


def test_stop(client):
    whole = complete(client, "1, 2, 3, 4,", max_tokens=16).choices[0].text
    assert "6" in whole
    answer = complete(client, "1, 2, 3, 4,", max_tokens=16, stop="6")
    assert answer.choices[0].text == whole[: whole.index("6")]
    assert answer.choices[0].finish_reason == "stop"
    kept = complete(client, "1, 2, 3, 4,", max_tokens=16, stop=["no", "6"], extra_body={"include_stop_str_in_output": True})
    assert kept.choices[0].text == whole[: whole.index("6") + 1]
    streamed = "".join(c.choices[0].text for c in complete(client, "1, 2, 3, 4,", max_tokens=16, stop="6", stream=True))
    assert streamed == answer.choices[0].text


def test_completion_logprobs(client):
    choice = complete(client, logprobs=3, max_tokens=4).choices[0]
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 4
    assert logprobs.text_offset[0] == 0
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert logprob <= 0
        assert top[token] == logprob == max(top.values())  # greedy takes the best
        assert len(top) == 3
    streamed = [c.choices[0].logprobs for c in complete(client, logprobs=3, max_tokens=4, stream=True)]
    assert [t for part in streamed if part for t in part.tokens] == logprobs.tokens
    assert [o for part in streamed if part for o in part.text_offset] == logprobs.text_offset


def test_chat_logprobs(client):
    choice = chat(client, logprobs=True, top_logprobs=2).choices[0]
    tokens = choice.logprobs.content
    assert b"".join(bytes(t.bytes) for t in tokens).decode() == choice.message.content
    assert all(len(t.top_logprobs) == 2 and t.top_logprobs[0].token == t.token for t in tokens)
    bare = chat(client, logprobs=True).choices[0].logprobs.content
    assert [t.logprob for t in bare] == [t.logprob for t in tokens]
    assert all(t.top_logprobs == [] for t in bare)
    assert chat(client).choices[0].logprobs is None


def test_second_request_reuses_the_prompt(client):
    first = complete(client, LONG_PROMPT, max_tokens=2).usage
    second = complete(client, LONG_PROMPT, max_tokens=2).usage
    assert first.prompt_tokens == second.prompt_tokens > 256
    assert second.prompt_tokens_details.cached_tokens >= second.prompt_tokens // 64 * 64 - 64
    assert second.prompt_tokens_details.cached_tokens > first.prompt_tokens_details.cached_tokens


def test_next_turn_reuses_the_whole_conversation(client):
    messages = [{"role": "user", "content": LONG_PROMPT + "What animal jumps?"}]
    answer = chat(client, messages=messages, max_completion_tokens=16)
    messages += [{"role": "assistant", "content": answer.choices[0].message.content}, {"role": "user", "content": "Why?"}]
    usage = chat(client, messages=messages, max_completion_tokens=2).usage
    assert usage.prompt_tokens_details.cached_tokens > answer.usage.prompt_tokens - 64


def test_ignore_eos(client):
    short = chat(client, max_completion_tokens=20)
    assert short.choices[0].finish_reason == "stop"
    long = chat(client, max_completion_tokens=20, extra_body={"ignore_eos": True})
    assert (long.choices[0].finish_reason, long.usage.completion_tokens) == ("length", 20)


def test_response_format_is_kept(client):
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 12}},
        "required": ["capital"],
        "additionalProperties": False,
    }
    asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    content = chat(client, response_format=asked, max_completion_tokens=40).choices[0].message.content
    assert json.loads(content).keys() == {"capital"}


def test_structured_outputs_are_kept(client):
    choice = complete(client, max_tokens=16, extra_body={"structured_outputs": {"choice": ["Rome", "Oslo"]}}).choices[0]
    assert choice.text in ("Rome", "Oslo")
    regex = complete(client, temperature=1, seed=1, extra_body={"structured_outputs": {"regex": "[0-9]{3}"}}).choices[0]
    assert re.fullmatch("[0-9]{3}", regex.text)
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, extra_body={"structured_outputs": {"regex": "("}})
    assert caught.value.param == "structured_outputs.regex"


def test_errors_are_the_clients_own(client):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, "x " * 3000)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, max_tokens=5000)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "max_tokens")
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, [10**7])
    assert caught.value.param == "prompt"
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, "")
    assert caught.value.param == "prompt"
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, extra_body={"stop_token_ids": [10**7]})
    assert caught.value.param == "stop_token_ids"
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, logit_bias={"10000000": 1})
    assert caught.value.param == "logit_bias"
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, messages=[{"role": "user", "content": "x " * 3000}])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.NotFoundError):
        complete(client, model="gpt-5")


def test_fifty_streams_at_once_equal_the_same_prompts_alone(client, server):
    prompts = [f"Here is fact number {i} about the sea:" for i in range(25)] * 2
    alone = [complete(client, prompt, max_tokens=6).choices[0].text for prompt in prompts[:25]] * 2

    async def stream(client: openai.AsyncOpenAI, prompt: str) -> str:
        chunks = await client.completions.create(model=MODEL, prompt=prompt, max_tokens=6, temperature=0, stream=True)
        return "".join([chunk.choices[0].text async for chunk in chunks])

    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
            return await asyncio.gather(*(stream(client, prompt) for prompt in prompts))

    assert asyncio.run(all_at_once()) == alone
    assert server.metrics()["tiercel_requests_running"] == 0
