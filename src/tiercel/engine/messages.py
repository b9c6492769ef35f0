"""What goes to the engine and what comes back: plain data, so that the engine may live in another process."""

import msgspec

from tiercel.telemetry import LogSettings
from tiercel.types import Reuse, SamplingParams


class Orders(msgspec.Struct, frozen=True):
    """What an engine process reads first.

    config: the fields of EngineConfig; requests, replies: ZeroMQ addresses; log: how its parent logs, None = as it comes.
    """

    config: dict[str, str | int | float | bool]
    requests: str
    replies: str
    log: LogSettings | None


class Submit(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Start a request. Lower `priority` runs first; `cache_salt` parts its cached blocks from those of other salts."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    priority: int = 0
    cache_salt: str = ""


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Stop computing a request, or only one sample of it. Unknown ids are ignored: it may have just finished."""

    request_id: str
    index: int | None = None


class GetStats(msgspec.Struct, frozen=True, tag=True):
    """Ask for EngineStats."""


class Forget(msgspec.Struct, frozen=True, tag=True):
    """Drop what the device has cached."""


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """End the engine process."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Of one sampled token: its own log probability and the most likely ids with theirs, best first."""

    logprob: float
    top_ids: list[int]
    top_logprobs: list[float]


class SampleUpdate(msgspec.Struct, frozen=True, array_like=True):
    """One sample's token of this step. finish_reason: "stop", "length" or "abort" when it was the last.

    A stop token is reported as stop_token and not in token_ids. reuse: comes with the first token only.
    """

    request_id: str
    index: int
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: str | None = None
    stop_token: int | None = None
    cached_tokens: int = 0
    reuse: Reuse | None = None


class Updates(msgspec.Struct, frozen=True, tag=True):
    """Everything one step produced."""

    samples: list[SampleUpdate]


class EngineStats(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Gauges now, counters and seconds since start.

    phase_seconds: where the time of steps went; tier: what happened between the device and the tier below it.
    """

    requests_running: int = 0
    requests_waiting: int = 0
    requests_loading: int = 0
    kv_blocks_total: int = 0
    kv_blocks_used: int = 0
    kv_blocks_cached: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    prefix_stored_tokens: int = 0
    preemptions: int = 0
    evictions: int = 0
    phase_seconds: dict[str, float] = {}
    tier: dict[str, float] = {}


class Ready(msgspec.Struct, frozen=True, tag=True):
    """First message of an engine process that came up. plan: msgpack of EnginePlan."""

    plan: bytes


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine process could not start. field: the setting that is to blame, if one is."""

    message: str
    field: str = ""


ToEngine = Submit | Abort | GetStats | Forget | Shutdown
FromEngine = Updates | EngineStats | Ready | Failed
