"""The text side of the engine: prompts to checked messages, tokens back to text. Shared by `LLM` and `AsyncLLM`."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import cast
from uuid import uuid4

from tiercel.engine.detokenizer import IncrementalDetokenizer
from tiercel.engine.messages import Abort, SampleUpdate, Submit, TokenLogprobs
from tiercel.engine.outputs import Delta, FinishReason, SampledToken, TokenLogprob
from tiercel.engine.plan import EnginePlan
from tiercel.engine.structured import GrammarCompiler
from tiercel.models import Checkpoint, Tokenizer, render_chat
from tiercel.types import InvalidInput, SamplingParams

Prompt = str | Sequence[int]
ChatMessage = Mapping[str, object]


class PromptEncoder:
    """Texts and conversations to the tokens that a model expects."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.tokenizer: Tokenizer = checkpoint.tokenizer
        self._chat_template = checkpoint.chat_template

    @property
    def has_chat_template(self) -> bool:
        """Whether the model knows conversations."""
        return self._chat_template is not None

    def render_chat(self, messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, object]] | None = None) -> str:
        """The prompt text of a conversation. Raises InvalidInput where the template refuses it."""
        return render_chat(self._chat_template, self.tokenizer, messages, tools)

    def encode_chat(self, messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, object]] | None = None) -> list[int]:
        """Token ids of a conversation. The template writes its own special tokens, so none are added."""
        return self.tokenizer.encode(self.render_chat(messages, tools), add_special_tokens=False)


class Frontend(PromptEncoder):
    """Everything about a request that needs the tokenizer or the chat template, and every check of it."""

    def __init__(self, checkpoint: Checkpoint, plan: EnginePlan) -> None:
        super().__init__(checkpoint)
        self.plan = plan
        self._vocab_size = checkpoint.config.vocab_size

    @cached_property
    def grammars(self) -> GrammarCompiler:
        return GrammarCompiler(self.tokenizer, self._vocab_size)

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str = "",
    ) -> Submit:
        """A request, checked against this engine. Raises InvalidInput naming the field."""
        token_ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        self._check_prompt(token_ids)
        self._check_params(params, len(token_ids))
        return Submit(
            request_id=request_id or uuid4().hex,
            prompt_token_ids=token_ids,
            params=params,
            priority=priority,
            cache_salt=cache_salt,
        )

    def track(self, submit: Submit) -> "RequestTracker":
        return RequestTracker(submit, self.tokenizer)

    def _check_prompt(self, token_ids: Sequence[int]) -> None:
        if not token_ids:
            raise InvalidInput("prompt", "must hold at least one token")
        for token_id in token_ids:
            if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < self._vocab_size:
                raise InvalidInput("prompt", f"token ids must be integers from 0 to {self._vocab_size - 1}, got {token_id!r}")

    def _check_params(self, params: SamplingParams, prompt_tokens: int) -> None:
        longest = self.plan.max_model_len
        if prompt_tokens >= longest:
            raise InvalidInput(
                "prompt",
                f"has {prompt_tokens:,} tokens and the context is {longest:,} (max_model_len), at least one of them for the "
                "answer: shorten the prompt, or raise max_model_len",
            )
        if params.max_tokens is not None and prompt_tokens + params.max_tokens > longest:
            raise InvalidInput(
                "max_tokens",
                f"{prompt_tokens:,} prompt tokens and {params.max_tokens:,} to generate exceed the context of {longest:,} "
                f"(max_model_len): ask for at most {longest - prompt_tokens:,}",
            )
        if params.n > self.plan.max_num_seqs:
            raise InvalidInput("n", f"{params.n} samples asked for, this engine runs {self.plan.max_num_seqs} (max_num_seqs)")
        for name, ids in (("stop_token_ids", params.stop_token_ids), ("logit_bias", params.logit_bias or ())):
            for token_id in ids:
                if token_id >= self._vocab_size:
                    raise InvalidInput(name, f"token ids go from 0 to {self._vocab_size - 1}, got {token_id}")
        if params.structured is not None:
            self.grammars.compile(params.structured)


class RequestTracker:
    """Turns one request's updates into deltas of text."""

    def __init__(self, submit: Submit, tokenizer: Tokenizer) -> None:
        self.request_id = submit.request_id
        self.prompt_token_ids = submit.prompt_token_ids
        self.num_samples = submit.params.n
        self._tokenizer = tokenizer
        self._open = {index: IncrementalDetokenizer(tokenizer, submit.params) for index in range(submit.params.n)}
        self._waiting: dict[int, Delta] = {}

    @property
    def finished(self) -> bool:
        return not self._open

    def drain(self) -> list[Delta]:
        """The deltas made since the last call. Those of one sample are joined, so a slow reader costs no memory."""
        deltas, self._waiting = list(self._waiting.values()), {}
        return deltas

    def take(self, update: SampleUpdate) -> Abort | None:
        """Adds an update's text to what waits to be drained. Returns the message that ends a sample which met a stop string.

        Updates of a sample that is over are ignored: the engine computes on until it hears of a stop string.
        """
        detokenizer = self._open.get(update.index)
        if detokenizer is None:
            return None
        piece = detokenizer.feed(update.token_ids)
        stopped = piece.stop is not None
        reason = "stop" if stopped else update.finish_reason
        if reason is not None:
            del self._open[update.index]
        delta = Delta(
            request_id=self.request_id,
            index=update.index,
            text=piece.text if stopped or reason is None else piece.text + detokenizer.finish(),
            token_ids=update.token_ids[: piece.num_tokens],
            logprobs=[self._logprobs(*pair) for pair in zip(update.token_ids, update.logprobs or (), strict=False)],
            finish_reason=cast("FinishReason | None", reason),
            stop_reason=piece.stop if stopped else update.stop_token,
            prompt_tokens=len(self.prompt_token_ids),
            cached_tokens=update.cached_tokens,
            reuse=update.reuse,
        )
        waiting = self._waiting.setdefault(update.index, delta)
        if waiting is not delta:
            waiting.extend(delta)
        return Abort(self.request_id, update.index) if stopped and update.finish_reason is None else None

    def _logprobs(self, token_id: int, logprobs: TokenLogprobs) -> SampledToken:
        top = zip(logprobs.top_ids, logprobs.top_logprobs, strict=True)
        return SampledToken(self._logprob(token_id, logprobs.logprob), tuple(self._logprob(*pair) for pair in top))

    def _logprob(self, token_id: int, logprob: float) -> TokenLogprob:
        data = self._tokenizer.token_bytes(token_id)
        return TokenLogprob(token_id, data.decode(errors="replace"), data, logprob)
