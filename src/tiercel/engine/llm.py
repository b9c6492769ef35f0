"""The engine inline: synchronous, in the caller's process."""

import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import cast

from tiercel.config import EngineConfig, checked
from tiercel.engine.build import build_engine
from tiercel.engine.frontend import ChatMessage, Frontend, Prompt, RequestTracker
from tiercel.engine.messages import Abort, EngineStats, Submit
from tiercel.engine.outputs import Delta, RequestOutput, SampleOutput
from tiercel.models import Checkpoint, Tokenizer
from tiercel.types import InvalidInput, SamplingParams


class LLM:
    """A model, ready to answer.

        llm = LLM("smollm2")
        print(llm.generate("The capital of France is", SamplingParams(max_tokens=8))[0].text)

    Settings are the fields of `EngineConfig`, as keyword arguments or as one object. Not thread-safe; `AsyncLLM` serves many.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        config: EngineConfig | None = None,
        checkpoint: Checkpoint | None = None,
        **settings: object,
    ) -> None:
        """Raises InvalidInput for settings that cannot be met, ModelError if the model is missing or broken.

        checkpoint: the model of these settings, if it has been opened already.
        """
        if model is not None:
            settings["model"] = model
        if config is not None and settings:
            raise InvalidInput("config", "give either a config object or single settings")
        self.config = config or checked(EngineConfig, settings)
        engine = build_engine(self.config, checkpoint)
        self.core = engine.core
        weakref.finalize(self, self.core.close)  # also at the interpreter's end: what was computed is not lost
        self.plan = engine.plan
        self.model_name = Path(self.config.model).name
        self.generation_defaults: Mapping[str, float] = engine.checkpoint.generation_defaults
        self._frontend = Frontend(engine.checkpoint, engine.plan)
        self._trackers: dict[str, RequestTracker] = {}

    @property
    def has_chat_template(self) -> bool:
        return self._frontend.has_chat_template

    @property
    def tokenizer(self) -> Tokenizer:
        return self._frontend.tokenizer

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        on_progress: Callable[[RequestOutput], None] | None = None,
    ) -> list[RequestOutput]:
        """Runs all prompts side by side and returns their outputs in order.

        prompts: text or token ids, one or many; params: one for all or one each; on_progress: called as each finishes.
        """
        many = _as_prompts(prompts)
        each = [params or SamplingParams()] * len(many) if isinstance(params, SamplingParams | None) else list(params)
        if len(each) != len(many):
            raise InvalidInput("params", f"{len(many)} prompts and {len(each)} sets of sampling parameters")
        submits = [self._frontend.submit(prompt, p) for prompt, p in zip(many, each, strict=True)]
        outputs = {
            s.request_id: RequestOutput(s.request_id, s.prompt_token_ids, [SampleOutput(i) for i in range(s.params.n)])
            for s in submits
        }
        start = perf_counter()
        for submit in submits:
            self._start(submit)
        try:
            for delta in self._deltas(set(outputs)):
                output = outputs[delta.request_id]
                output.add(delta)
                output.time_total = perf_counter() - start
                output.time_to_first_token = output.time_to_first_token or output.time_total
                if output.finished and on_progress is not None:
                    on_progress(output)
        finally:
            self._abort(set(outputs))
        return list(outputs.values())

    def chat(
        self,
        messages: Sequence[ChatMessage],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
    ) -> RequestOutput:
        """Answers a conversation, a list of {"role": ..., "content": ...}."""
        return self.generate([self._frontend.encode_chat(messages, tools)], params)[0]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Generator[Delta, None, None]:
        """Yields text as it is made. Closing the iterator stops the request."""
        submit = self._frontend.submit(prompt, params or SamplingParams())
        self._start(submit)
        try:
            yield from self._deltas({submit.request_id})
        finally:
            self._abort({submit.request_id})

    def render_chat(self, messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, object]] | None = None) -> str:
        """The prompt text of a conversation."""
        return self._frontend.render_chat(messages, tools)

    def encode_chat(self, messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, object]] | None = None) -> list[int]:
        """The prompt token ids of a conversation."""
        return self._frontend.encode_chat(messages, tools)

    def stats(self) -> EngineStats:
        return self.core.stats()

    def forget(self) -> None:
        """Drops what the cache holds in memory; what it holds on disk stays."""
        self.core.forget()

    def flush(self) -> bool:
        """Waits until everything that is to be written to disk is written. False where the disk does not take it."""
        return self.core.flush()

    def close(self) -> None:
        """Stops all requests and writes what is still to be written to disk. The memory goes with the object."""
        self._abort(set(self._trackers))
        self.core.close()

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _start(self, submit: Submit) -> None:
        self._trackers[submit.request_id] = self._frontend.track(submit)
        self.core.submit(submit)

    def _deltas(self, request_ids: set[str]) -> Iterator[Delta]:
        """Steps until the given requests have finished. Requests of other streams advance too; their deltas wait for them."""
        trackers = [self._trackers[request_id] for request_id in request_ids]
        while True:
            finished = all(tracker.finished for tracker in trackers)
            for tracker in trackers:
                yield from tracker.drain()
            if finished:
                return
            self._step()

    def _step(self) -> None:
        updates = self.core.step()
        start = perf_counter()
        for update in updates:
            tracker = self._trackers.get(update.request_id)
            abort = tracker.take(update) if tracker is not None else None
            if abort is not None:
                self.core.abort(abort)
        self.core.timings["detokenize"] += perf_counter() - start

    def _abort(self, request_ids: set[str]) -> None:
        for request_id in request_ids:
            tracker = self._trackers.pop(request_id, None)
            if tracker is not None and not tracker.finished:
                self.core.abort(Abort(request_id))


def _as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or many, as a list. A list of integers is one prompt."""
    if isinstance(prompts, str):
        return [prompts]
    if not prompts:
        raise InvalidInput("prompts", "must hold at least one prompt")
    if isinstance(prompts[0], int):
        return [cast("Sequence[int]", prompts)]
    return list(cast("Sequence[Prompt]", prompts))
