"""The whole engine on the real model, inline."""

import pytest

from tests.support.real_model import llm, oracle_logits
from tiercel import InvalidInput, SamplingParams

GREEDY = SamplingParams(temperature=0.0, max_tokens=128, ignore_eos=True)

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n    ",
    "The three laws of thermodynamics are",
    "Dear hiring manager,",
    "Water boils at 100 degrees because",
    "1, 1, 2, 3, 5, 8, 13,",
    "In 1969, two astronauts",
    "SELECT name, age FROM users WHERE",
    "A good night's sleep matters since",
    "Le chat est assis sur",
    "The recipe needs flour, sugar, and",
    '{"name": "Ada", "born":',
    "Newton's second law says that",
    "import numpy as np\n\nx = np.",
    "The quick brown fox",
    "Chapter 1\n\nIt was the best of times,",
    "To make a compass at home, you need",
    "Q: What is photosynthesis?\nA:",
    "The stock market fell on Monday after",
]


def test_greedy_tokens_equal_those_of_transformers():
    """128 tokens for 20 prompts, batched; where they first differ, the oracle's two best logits must be within 1e-3."""
    outputs = llm(backend="reference").generate(PROMPTS, GREEDY)
    assert len(outputs) == 20
    for output in outputs:
        tokens = output.samples[0].token_ids
        assert len(tokens) == 128
        start = len(output.prompt_token_ids) - 1
        logits = oracle_logits([*output.prompt_token_ids, *tokens[:-1]])[start:]
        for position, token in enumerate(tokens):
            best = logits[position].topk(2)
            if best.indices[0] != token:
                assert best.values[0] - best.values[1] < 1e-3, f"{output.prompt_token_ids} differs at {position}"
                break


@pytest.mark.parametrize("settings", [{"backend": "reference"}, {"backend": "cpu"}, {"backend": "cpu", "dtype": "bf16"}])
def test_batched_alone_cold_and_warm_are_the_same_tokens(settings):
    params = SamplingParams(temperature=0.8, seed=11, max_tokens=24, logprobs=3)
    engine = llm(**settings)
    together = engine.generate(PROMPTS[:6], params)
    engine.forget()
    alone = [engine.generate(prompt, params)[0] for prompt in PROMPTS[:6]]
    for one, other in zip(together, alone, strict=True):
        assert one.samples == other.samples


def test_a_long_prompt_is_reused_and_gives_the_same_answer_and_logprobs():
    tokens = llm().tokenizer.encode(" ".join(PROMPTS) * 3)
    params = SamplingParams(temperature=0.0, max_tokens=12, logprobs=5)
    llm().forget()
    cold = llm().generate([tokens], params)[0]
    warm = llm().generate([tokens], params)[0]
    assert cold.cached_tokens == 0
    assert warm.cached_tokens == (len(tokens) - 1) // 64 * 64
    assert warm.samples == cold.samples


def test_several_samples_differ_and_each_is_repeatable():
    params = SamplingParams(temperature=1.0, seed=3, n=3, max_tokens=12)
    first, second = (llm().generate("The meaning of life", params)[0] for _ in range(2))
    texts = [sample.text for sample in first.samples]
    assert len(set(texts)) == 3
    assert texts == [sample.text for sample in second.samples]


def test_a_chat_continues_from_its_own_answer():
    messages = [{"role": "user", "content": "Name three colours and say a sentence about each of them, please."}]
    params = SamplingParams(temperature=0.0, max_tokens=80)
    answer = llm().chat(messages, params)
    messages += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": "Thanks! And two more?"}]
    following = llm().chat(messages, params)
    assert following.cached_tokens >= (len(answer.prompt_token_ids) + len(answer.samples[0].token_ids) - 2) // 64 * 64 > 0


def test_a_stream_is_the_same_text_in_pieces():
    params = SamplingParams(temperature=0.0, max_tokens=20)
    deltas = list(llm().stream(PROMPTS[1], params))
    assert len(deltas) > 5
    assert "".join(delta.text for delta in deltas) == llm().generate(PROMPTS[1], params)[0].text
    assert deltas[-1].finish_reason == "length"


def test_two_streams_side_by_side_and_one_left_early():
    params = SamplingParams(temperature=0.0, max_tokens=10)
    expected = [llm().generate(prompt, params)[0].text for prompt in PROMPTS[:2]]
    one, two, left = (llm().stream(prompt, params) for prompt in (*PROMPTS[:2], PROMPTS[2]))
    texts = ["", ""]
    next(left)
    left.close()
    texts[1] += next(two).text
    texts[0] += "".join(delta.text for delta in one)
    texts[1] += "".join(delta.text for delta in two)
    assert texts == expected
    assert llm().stats().requests_running == 0


def test_a_stop_string_ends_the_text_before_it():
    whole = llm().generate(PROMPTS[1], SamplingParams(temperature=0.0, max_tokens=40))[0].text
    stop = whole[20:26]
    output = llm().generate(PROMPTS[1], SamplingParams(temperature=0.0, max_tokens=40, stop=(stop,)))[0]
    assert output.text == whole[: whole.index(stop)]
    assert (output.samples[0].finish_reason, output.samples[0].stop_reason) == ("stop", stop)
    assert llm().stats().requests_running == 0


@pytest.mark.parametrize(
    ("prompt", "params", "field"),
    [
        ([], {}, "prompt"),
        ([49152], {}, "prompt"),
        ([-1], {}, "prompt"),
        ([1] * 9000, {}, "prompt"),
        ([1] * 8000, {"max_tokens": 500}, "max_tokens"),
        ("hello", {"n": 100}, "n"),
        ("hello", {"logit_bias": {60_000: 1.0}}, "logit_bias"),
        ("hello", {"stop_token_ids": (60_000,)}, "stop_token_ids"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(prompt, params, field):
    with pytest.raises(InvalidInput) as error:
        llm().generate([prompt], SamplingParams(**params))
    assert error.value.field == field
    assert not llm().core.has_work


def test_settings_are_refused_by_name():
    from tiercel import LLM

    for settings, field in (
        ({"kv_memory": "much"}, "kv_memory"),
        ({"kv_memory": "100TiB"}, "kv_memory"),
        ({"kv_memory": "1KiB"}, "kv_memory"),
        ({"max_model_len": 100_000}, "max_model_len"),
        ({"max_model_len": 8192, "kv_memory": "64MiB"}, "max_model_len"),
        ({"max_num_batched_tokens": 8}, "max_num_batched_tokens"),
        ({"colour": "blue"}, "colour"),
    ):
        with pytest.raises(InvalidInput) as error:
            LLM("smollm2", **settings)
        assert error.value.field == field
