"""What a client is told about the cache: where each prompt's tokens came from, and why no more of them were reused."""

import msgspec

from tiercel.types import Miss, Reuse


class PromptCache(msgspec.Struct):
    """Of one prompt, in tokens: found on the device, loaded from a store, computed. miss: why reuse ended."""

    prompt_tokens: int
    device_tokens: int
    stored_tokens: int
    computed_tokens: int
    miss: Miss


class CacheReport(msgspec.Struct):
    """The part of an answer that is ours. cache: one entry per prompt, in order."""

    cache: list[PromptCache]


def prompt_cache(reuse: Reuse, *, salted: bool) -> PromptCache:
    """What may be told. salted: whether the request shares only with those that know its cache salt.

    Without a salt a known prompt may be anybody's: then its first differing token is not told, nor where inside a block it
    stands, or a client could read the prompts of others token by token.
    """
    miss = reuse.miss
    if miss.reason == "differs" and not salted:
        position = reuse.device_tokens + reuse.stored_tokens
        text = "what is known goes on otherwise; where and with what is told to requests that give a cache_salt"
        miss = Miss(reason="differs", position=position, detail=text)
    elif miss.reason == "store_failed":  # names files of this machine
        miss = Miss(reason="store_failed", position=miss.position, detail="the store gave no answer")
    return PromptCache(reuse.prompt_tokens, reuse.device_tokens, reuse.stored_tokens, reuse.computed_tokens, miss)
