"""`tiercel cache explain`: what a new process would reuse of a prompt, and why no more, without computing anything."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli.cache_store import disk_plan, opened
from tiercel.cli.console import waiting
from tiercel.cli.groups import ENGINE
from tiercel.cli.options import takes
from tiercel.cli.prompts import Encoder, Raw, System, encode_text, parse_messages, read_text
from tiercel.cli.report import facts
from tiercel.config import EngineConfig, format_size
from tiercel.kv import namespace_id
from tiercel.types import InvalidInput, Miss

if TYPE_CHECKING:
    from tiercel.kv.forecast import Forecast
    from tiercel.models import Tokenizer

_TOKENS_BEFORE = 12  # shown before the first one that differs


@takes(engine=ENGINE)
def explain(
    engine: EngineConfig,
    prompt: Annotated[
        str | None, typer.Argument(help='the prompt, as for `tiercel run`; "-" reads it from standard input')
    ] = None,
    file: Annotated[Path | None, typer.Option(help="take the prompt from this file")] = None,
    messages: Annotated[
        str | None, typer.Option(metavar="JSON", help="take a conversation, as for /v1/chat/completions")
    ] = None,
    system: System = None,
    raw: Raw = False,
    salt: Annotated[str, typer.Option(help="the request's cache_salt")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="as one JSON object")] = False,
) -> None:
    """How many tokens of a prompt a new process would take from disk, and why not the rest."""
    plan = disk_plan(engine)
    if not engine.prefix_caching:
        raise InvalidInput("prefix_caching", "is off: nothing would be reused")
    with waiting("reading the model"):
        from tiercel.engine import PromptEncoder, identify
        from tiercel.kv.forecast import forecast

        checkpoint, own, groups = identify(engine)
    model = PromptEncoder(checkpoint)
    token_ids = _encode(model, prompt, file, messages, system, raw=raw)
    with opened(plan) as store, waiting("checking what is stored"):
        told = forecast(store, own, groups, token_ids, salt)
    if as_json:
        place = {"path": str(plan.path), "namespace": namespace_id(own)}
        typer.echo(json.dumps(_as_json(told, token_ids, model.tokenizer) | place))
        return
    rows = _rows(told, token_ids, model.tokenizer)
    if told.reuse.miss.reason in ("first_seen", "differs") and len(token_ids) < engine.kv_disk_min_tokens:
        rows["note"] = f"contexts below {engine.kv_disk_min_tokens:,} tokens are not written to disk (kv_disk_min_tokens)"
    facts("reuse from disk", rows | {"folder": str(plan.path), "namespace": namespace_id(own)})


def _encode(
    model: Encoder, prompt: str | None, file: Path | None, messages: str | None, system: str | None, *, raw: bool
) -> list[int]:
    """The one prompt that was given."""
    match prompt, file, messages:
        case str(text), None, None:
            return encode_text(model, read_text("prompt", Path("-")) if text == "-" else text, system, raw=raw)
        case None, Path() as path, None:
            return encode_text(model, read_text("file", path), system, raw=raw)
        case None, None, str(text):
            return model.encode_chat(parse_messages(text))
    raise InvalidInput("prompt", "give one prompt: as an argument, with --file or with --messages")


def _rows(told: "Forecast", token_ids: Sequence[int], tokenizer: "Tokenizer") -> dict[str, str]:
    reuse, miss = told.reuse, told.reuse.miss
    checked = f", {format_size(told.bytes)}, every byte checked" if told.bytes else ""
    rows = {
        "prompt": f"{reuse.prompt_tokens:,} tokens",
        "from disk": f"{reuse.stored_tokens:,} tokens{checked}",
        "to compute": f"{reuse.computed_tokens:,} tokens",
        "why": f"{miss.reason}, from token {miss.position:,} on: {miss.detail}",
    }
    if miss.reason == "differs":
        before = token_ids[max(0, miss.position - _TOKENS_BEFORE) : miss.position]
        asked, known = _differing(miss, token_ids, tokenizer)
        rows["why"] = f"differs, from token {miss.position:,} on"
        if before:
            rows["after"] = repr(tokenizer.decode(before, skip_special_tokens=False))
        rows["the prompt has"] = repr(asked)
        rows["stored is"] = repr(known)
    return rows


def _as_json(told: "Forecast", token_ids: Sequence[int], tokenizer: "Tokenizer") -> dict[str, object]:
    reuse, miss = told.reuse, told.reuse.miss
    why: dict[str, object] = {"reason": miss.reason, "position": miss.position, "detail": miss.detail}
    if miss.reason == "differs":
        asked, known = _differing(miss, token_ids, tokenizer)
        why |= {"token": token_ids[miss.position], "text": asked, "cached_token": miss.cached_token, "cached_text": known}
    return {
        "prompt_tokens": reuse.prompt_tokens,
        "stored_tokens": reuse.stored_tokens,
        "computed_tokens": reuse.computed_tokens,
        "bytes": told.bytes,
        "miss": why,
    }


def _differing(miss: Miss, token_ids: Sequence[int], tokenizer: "Tokenizer") -> tuple[str, str]:
    """The first token that differs, as text: the prompt's and the stored one."""
    assert miss.cached_token is not None, "a miss that differs names the token"
    asked, known = token_ids[miss.position], miss.cached_token
    return tokenizer.decode([asked], skip_special_tokens=False), tokenizer.decode([known], skip_special_tokens=False)
