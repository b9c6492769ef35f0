"""`tiercel cache warm`: computes the prompts of a file, so that they lie on disk before anybody asks."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from tiercel.cli.answer import open_engine, stop_on_interrupt
from tiercel.cli.cache_store import disk_plan
from tiercel.cli.console import notes, waiting
from tiercel.cli.groups import ENGINE
from tiercel.cli.options import takes
from tiercel.cli.prompts import Raw, System, check_messages, encode_text, read_text
from tiercel.config import EngineConfig, format_size
from tiercel.types import InvalidInput, SamplingParams, TiercelError

if TYPE_CHECKING:
    from tiercel.engine import LLM

_JSON_LINES = (".jsonl", ".ndjson")
_FORMATS = ("auto", "jsonl", "text")
_WHOLE_CHAIN = {"kv_disk_min_tokens": 0, "kv_disk_touches": 1}  # what is named here is worth keeping, however short


class Prompt(NamedTuple):
    """where: the place in the file, for errors; encode: makes its token ids."""

    where: str
    encode: "Callable[[LLM], list[int]]"


@dataclass
class Warmed:
    """What was done. tokens_found: were on disk, or shared with an earlier prompt; blocks_lost: computed and not written."""

    prompts: int = 0
    tokens_computed: int = 0
    tokens_found: int = 0
    blocks_written: int = 0
    bytes_written: int = 0
    blocks_lost: int = 0


@takes(engine=ENGINE)
def warm(
    engine: EngineConfig,
    source: Annotated[Path, typer.Argument(metavar="FILE", help='prompts; "-" reads them from standard input')],
    format: Annotated[
        str, typer.Option(metavar="|".join(_FORMATS), help="jsonl = one prompt a line, text = all of it is one prompt")
    ] = "auto",
    system: System = None,
    raw: Raw = False,
    as_json: Annotated[bool, typer.Option("--json", help="as one JSON object")] = False,
) -> None:
    """Compute the prompts of a file and keep them on disk, so that every later process finds them there."""
    disk_plan(engine)
    if not engine.prefix_caching:
        raise InvalidInput("prefix_caching", "is off: nothing would be kept")
    if _is_json_lines(source, format):
        if system is not None or raw:
            raise InvalidInput("system" if system is not None else "raw", "belongs to a text; here each line says what it is")
        prompts = list(_parse_lines(read_text("source", source), source))
    else:
        text = read_text("source", source)
        prompts = [Prompt(str(source), partial(encode_text, text=text, system=system, raw=raw))]
    with open_engine(engine.model_copy(update=_WHOLE_CHAIN)) as llm:
        if not llm.plan.disk_path:
            raise TiercelError("there is no store to write to; name a folder for it with --kv-disk")
        encoded = [_encode(llm, prompt) for prompt in prompts]
        with stop_on_interrupt() as stopped:
            done = _compute(llm, encoded, stopped)
    _report(done, as_json=as_json)
    if done.prompts < len(prompts):
        raise typer.Exit(130)
    if done.blocks_lost:
        raise typer.Exit(1)


def _is_json_lines(source: Path, format: str) -> bool:
    if format not in _FORMATS:
        raise InvalidInput("format", f"must be one of {', '.join(_FORMATS)}, got {format!r}")
    return format == "jsonl" or (format == "auto" and (source.suffix in _JSON_LINES or str(source) == "-"))


def _parse_lines(text: str, source: Path) -> Iterator[Prompt]:
    """Empty lines are passed over. Raises InvalidInput that names the line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{source}, line {number}"
            try:
                yield Prompt(where, _parse_line(line))
            except InvalidInput as error:
                raise InvalidInput("source", f"{where}: {error.message}") from error


def _parse_line(line: str) -> "Callable[[LLM], list[int]]":
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("source", f"no JSON: {error}") from error
    match fields:
        case {"prompt": str(text), **rest} if not rest:
            return lambda llm: llm.tokenizer.encode(text)
        case {"messages": messages, **rest} if rest.keys() <= {"tools"}:
            conversation, tools = check_messages(messages), check_messages(rest.get("tools", []))
            return lambda llm: llm.encode_chat(conversation, tools or None)
    raise InvalidInput("source", 'must be {"prompt": "..."} or {"messages": [...]}, the latter with "tools" if need be')


def _encode(llm: "LLM", prompt: Prompt) -> list[int]:
    """Raises InvalidInput that names the place, if the engine would not take the prompt."""
    try:
        token_ids = prompt.encode(llm)
    except InvalidInput as error:
        raise InvalidInput("source", f"{prompt.where}: {error.message}") from error
    longest = llm.plan.max_model_len - 1
    if not 0 < len(token_ids) <= longest:
        raise InvalidInput(
            "source", f"{prompt.where}: {len(token_ids):,} tokens; a prompt has 1 to {longest:,} here (--max-model-len)"
        )
    return token_ids


def _compute(llm: "LLM", prompts: Sequence[Sequence[int]], stopped: Callable[[], bool]) -> Warmed:
    """One prompt after the other, each written before the next begins, since that may need its place on the device."""
    done = Warmed()
    params = SamplingParams(max_tokens=1, temperature=0.0)
    with waiting("computing") as say:
        for number, token_ids in enumerate(prompts, start=1):
            say(f"prompt {number:,} of {len(prompts):,}, {len(token_ids):,} tokens")
            (output,) = llm.generate([token_ids], params)
            if not llm.flush():
                raise TiercelError(f"the store takes no more; {done.prompts:,} of {len(prompts):,} prompts are written")
            done.prompts += 1
            done.tokens_found += output.cached_tokens
            done.tokens_computed += len(token_ids) - output.cached_tokens
            if stopped():
                break
    tier = llm.stats().tier
    done.blocks_written, done.bytes_written = int(tier.get("blocks_written", 0)), int(tier.get("bytes_written", 0))
    done.blocks_lost = int(tier.get("blocks_dropped", 0))
    return done


def _report(done: Warmed, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(done)))
        return
    typer.echo(
        f"{done.prompts:,} prompts: {done.tokens_computed:,} tokens computed, {done.tokens_found:,} there already; "
        f"{done.blocks_written:,} blocks written, {format_size(done.bytes_written)}"
    )
    if done.blocks_lost:
        notes().print(f"{done.blocks_lost:,} blocks were computed and could not be written", style="yellow")
