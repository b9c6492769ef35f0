"""Says why a prompt's tokens were or were not reused."""

from tiercel.kv.hashing import HashChain, reusable_blocks
from tiercel.kv.history import Fate, History
from tiercel.kv.retrieval import Arrival
from tiercel.types import BLOCK_TOKENS, Miss, MissReason, Reuse

_LOST: dict[Fate, tuple[MissReason, str]] = {
    "here": ("evicted", "a part of it is no longer on the device"),  # of several groups, one has lost it
    "evicted": ("evicted", "it was known here, and its place was needed"),
    "not_written": ("not_written", "it was computed here and lost its place before it was written to a store"),
}


def explain(num_tokens: int, num_reused: int, chain: HashChain, arrival: Arrival | None, history: History) -> Reuse:
    """num_tokens, num_reused: tokens of the prompt and leading blocks that were reused; arrival: what came from below."""
    position = num_reused * BLOCK_TOKENS
    loaded_from = arrival.loaded_from if arrival is not None else None
    stored = 0 if loaded_from is None else max(0, num_reused - loaded_from) * BLOCK_TOKENS
    return Reuse(
        prompt_tokens=num_tokens,
        device_tokens=position - stored,
        stored_tokens=stored,
        miss=_why(num_tokens, num_reused, chain, arrival, history),
    )


def _why(num_tokens: int, number: int, chain: HashChain, arrival: Arrival | None, history: History) -> Miss:
    """Why block `number` was not reused."""
    position = number * BLOCK_TOKENS
    if number == reusable_blocks(num_tokens):
        text = f"only whole blocks of {BLOCK_TOKENS} tokens are kept, and the last token is always computed"
        return Miss(reason="partial_block", position=position, detail=text)
    if arrival is not None and arrival.missed is not None:
        return Miss(reason=arrival.missed, position=position, detail=arrival.detail)
    fate = history.fate(chain.links[number])
    if fate is not None:
        reason, text = _LOST[fate]
        return Miss(reason=reason, position=position, detail=text)
    if number == 0 and arrival is not None and arrival.elsewhere is not None:
        text = f"the same tokens are stored, computed with {arrival.elsewhere}"
        return Miss(reason="other_namespace", position=position, detail=text)
    divergence = history.divergence(chain.contents[number])
    if divergence is not None and divergence.position > 0:
        text = f"what is known goes on with token {divergence.cached_token} there"
        return Miss(reason="differs", position=divergence.position, detail=text, cached_token=divergence.cached_token)
    return Miss(reason="first_seen", position=position, detail="nothing that is known here goes on like this")


def explain_off(num_tokens: int) -> Reuse:
    """Nothing is reused because the engine is told so."""
    miss = Miss(reason="off", position=0, detail="prefix caching is off")
    return Reuse(prompt_tokens=num_tokens, device_tokens=0, stored_tokens=0, miss=miss)
