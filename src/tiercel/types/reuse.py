"""Why a prompt's tokens were or were not reused."""

from typing import Literal

import msgspec

MissReason = Literal[
    "first_seen",  # nothing that is known here continues the reused prefix
    "differs",  # a known block continues it, with another token at `position`
    "other_namespace",  # the same tokens are stored, computed by other weights, settings or arithmetic
    "evicted",  # was known here; its place was needed
    "not_written",  # was computed here, and lost before it reached a store
    "partial_block",  # less than a block is left: only whole blocks are kept, and one token is always computed
    "slower_to_load",  # stored, and computing it anew takes less time than loading it
    "corrupt",  # stored, and its bytes fail their check
    "timed_out",  # stored, and not here by the deadline
    "store_failed",  # the store did not answer, or answered with an error
    "off",  # prefix caching is off
]


class Miss(msgspec.Struct, frozen=True, kw_only=True):
    """Why reuse ended where it did.

    position: first prompt token that was not reused, or, for "differs", the first one that is another; detail: a sentence for
    people; cached_token: for "differs", the token id that the known block has at `position`.
    """

    reason: MissReason
    position: int
    detail: str = ""
    cached_token: int | None = None


class Reuse(msgspec.Struct, frozen=True, kw_only=True):
    """Where a prompt's tokens came from: `device_tokens` lay on the device, `stored_tokens` were loaded, the rest is computed.

    miss: why the rest was not reused; every prompt has a rest, since the last token is always computed.
    """

    prompt_tokens: int
    device_tokens: int
    stored_tokens: int
    miss: Miss

    @property
    def computed_tokens(self) -> int:
        return self.prompt_tokens - self.device_tokens - self.stored_tokens
