"""The same work on Tiercel and on other programs, in turns: everybody is a process that is stopped while it is not its turn."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple

from tiercel.bench.measure import Say, Summary
from tiercel.bench.peers.external import ExternalPeer
from tiercel.bench.peers.installed import Contender
from tiercel.bench.prefix import PrefixLoad
from tiercel.bench.workload import Workload
from tiercel.models import open_checkpoint
from tiercel.types import TiercelError

WORKS = ("ttft", "tpot", "batch", "prefix", "start", "memory")
STARTED = "to the first token"
COLD, WARM, RESTARTED = "cold", "warm", "after a restart"
FIRST_TOKEN, ALL_WORK = "at the first token", "after all work"
REPEAT_SECONDS = 10.0  # a piece of work is repeated as long as all its runs together take somebody no longer than this
LONG_START = 20.0  # seconds; who starts slower than this starts once, for all work
START_TOKENS = 128  # of the prompt whose first token ends a start
WARM_UPS = ((1, 64), (1, 300), (4, 64))  # prompts and tokens of each
WARM_UP_TOKENS = 8
PREFIX = PrefixLoad(4096, 64)
MILLI, GIB, MB = 1e3, 1 << 30, 1e6
KV_SPARE = 1.25  # memory for keys and values, beside what the largest piece of work needs


@dataclass(frozen=True)
class CompareLoad:
    """What is to be done. prompt_tokens: lengths whose first token is timed; contexts: lengths behind which the other
    `output_tokens` are; requests: numbers of them at once, of `request_tokens` in and `answer_tokens` out."""

    prompt_tokens: tuple[int, ...] = (128, 512, 2048, 7000)
    contexts: tuple[int, ...] = (128, 2048, 7000)
    output_tokens: int = 64
    requests: tuple[int, ...] = (16, 64)
    request_tokens: int = 256
    answer_tokens: int = 128
    prefix: PrefixLoad = PREFIX

    @property
    def most_tokens(self) -> int:
        """Of keys and values that one piece of work needs at once."""
        singles = max(*self.prompt_tokens, *self.contexts, sum(self.prefix)) + self.output_tokens
        return max(singles, max(self.requests) * (self.request_tokens + self.answer_tokens))


class Figure(NamedTuple):
    """One thing that is measured: of which work, and at which size or in which state."""

    work: str
    at: str


@dataclass
class Runner:
    """A contender's process. started: seconds from its start to its first token; peak: bytes."""

    contender: Contender
    peer: ExternalPeer
    started: float
    peak: int

    @property
    def name(self) -> str:
        return self.contender.name


@dataclass
class Comparison:
    """figures: by contender's name, run by run: seconds, tokens per second or bytes; remarks: who left what out, and why."""

    figures: dict[Figure, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    remarks: list[tuple[str, str]] = field(default_factory=list)

    def add(self, work: str, at: str | int, who: str, value: float) -> None:
        self.figures[Figure(work, at if isinstance(at, str) else f"{at:,}")][who].append(value)

    def summary(self, figure: Figure, who: str) -> Summary | None:
        values = self.figures.get(figure, {}).get(who)
        return Summary.of(values) if values else None


@dataclass(frozen=True)
class Rules:
    """runs: how often everything is measured at most; patience: a piece of work that somebody is expected to need more seconds
    for, by a smaller one of the kind, is left out for them; kv_memory: GiB for keys and values of each who takes a limit."""

    runs: int
    patience: float
    threads: int
    kv_memory: int


def kv_gib(model: Path, load: CompareLoad) -> int:
    """Memory for the keys and values of the largest piece of work in bf16, with some to spare."""
    config = open_checkpoint(model).config
    token_bytes = 2 * 2 * config.num_layers * config.num_kv_heads * config.head_dim
    return -(-int(KV_SPARE * load.most_tokens * token_bytes) // GIB)


def compare(
    contenders: Iterable[Contender],
    works: Sequence[str],
    load: CompareLoad,
    rules: Rules,
    workload: Workload,
    say: Say,
) -> Comparison:
    """Everybody gets the same prompts. A contender that fails is left out from then on; the remarks tell why. An interrupt ends
    it early, with what was measured until then."""
    with TemporaryDirectory(prefix="tiercel-compare-") as folder:
        contest = _Contest(works, load, rules, workload, Path(folder), say)
        try:
            for contender in contenders:
                contest.enter(contender)
            contest.run()
        except KeyboardInterrupt:
            contest.results.remarks.append(("everybody", "interrupted: what would have come next is missing"))
        finally:
            contest.close()
        return contest.results


class _Contest:
    """The processes, and what they have shown so far."""

    def __init__(
        self,
        works: Sequence[str],
        load: CompareLoad,
        rules: Rules,
        workload: Workload,
        folder: Path,
        say: Say,
    ) -> None:
        self.results = Comparison()
        self._works, self._load, self._rules, self._workload, self._say = works, load, rules, workload, say
        self._folder = folder
        self._opening = workload.prompt(START_TOKENS)
        self._runners: list[Runner] = []
        self._pace: dict[tuple[str, str], tuple[float, float]] = {}  # size and seconds of the last piece, by kind and name

    def enter(self, contender: Contender) -> None:
        """Starts a contender's process and lets it warm up."""
        self._say(f"starting {contender.name}")
        try:
            if contender.is_tiercel:  # the first start prepares the model, as compilers have done for others before
                self._start(contender).peer.close()
            runner = self._start(contender)
            if "memory" in self._works:
                self.results.add("memory", FIRST_TOKEN, runner.name, runner.peak)
            self._say(f"warming up {runner.name}")
            for count, length in WARM_UPS:
                runner.peer.generate_many(self._workload.prompts(count, length), WARM_UP_TOKENS)
        except TiercelError as error:
            self.results.remarks.append((contender.name, str(error)))
            return
        self._runners.append(runner)

    def run(self) -> None:
        lengths = {"ttft": self._load.prompt_tokens, "tpot": self._load.contexts}
        for length in sorted({length for work in lengths if work in self._works for length in lengths[work]}):
            self._latency(length)
        for requests in sorted(self._load.requests) if "batch" in self._works else ():
            self._batch(requests)
        if "prefix" in self._works:
            self._prefix()
        if "start" in self._works:
            self._starts()
        for runner in self._runners if "memory" in self._works else ():
            self.results.add("memory", ALL_WORK, runner.name, runner.peak)

    def close(self) -> None:
        for runner in self._runners:
            runner.peer.close()

    def _latency(self, length: int) -> None:
        first = "ttft" in self._works and length in self._load.prompt_tokens
        rest = "tpot" in self._works and length in self._load.contexts
        prompts = [self._workload.prompt(length) for _ in range(self._rules.runs)]

        def work(runner: Runner, run: int) -> None:
            done = runner.peer.generate(prompts[run], self._load.output_tokens if rest else 1)
            if first:
                self.results.add("ttft", length, runner.name, done.first)
            if rest:
                self.results.add("tpot", length, runner.name, done.per_token * MILLI)

        self._in_turns("latency", length, f"{length:,} tokens", work)

    def _batch(self, requests: int) -> None:
        runs = range(self._rules.runs)
        prompts = [self._workload.prompts(requests, self._load.request_tokens) for _ in runs]

        def work(runner: Runner, run: int) -> None:
            times = runner.peer.generate_many(prompts[run], self._load.answer_tokens)
            rate = requests * self._load.answer_tokens / max(each.last for each in times)
            self.results.add("batch", requests, runner.name, rate)

        self._in_turns("batch", requests, f"{requests} requests", work)

    def _prefix(self) -> None:
        """Whoever keeps keys and values in memory finds them warm, whoever keeps them on disk finds them after a restart.
        Tiercel's process is a new one with a store in a new folder; the others' do all work."""
        total = sum(self._load.prefix)
        prefixes = [self._workload.prompt(self._load.prefix.prefix_tokens) for _ in range(self._rules.runs)]
        prompts = [[self._workload.prompt(total, prefix) for prefix in prefixes] for _ in range(3)]

        def work(runner: Runner, run: int) -> None:
            cold, warm, later = (tail[run] for tail in prompts)
            contender, add, keeps = runner.contender, self.results.add, runner.contender.entry.keeps
            store = {"kv_disk": f"{self._folder}/kv-{runner.name}-{run}"} if contender.is_tiercel else {}
            peer = self._start(contender, **store).peer if store else runner.peer
            add("prefix", COLD, runner.name, peer.generate(cold, 1).first)
            if keeps != "nothing":
                add("prefix", WARM, runner.name, peer.generate(warm, 1).first)
            if keeps == "disk":
                peer.keep()
                if store:
                    peer.close()
                with closing(self._start(contender, **store).peer) as new:
                    add("prefix", RESTARTED, runner.name, new.recall() + new.generate(later, 1).first)

        self._in_turns("prefix", 1, f"prefix of {self._load.prefix.prefix_tokens:,} tokens", work)

    def _starts(self) -> None:
        def work(runner: Runner, run: int) -> None:
            if runner.started > LONG_START:
                if run == 0:
                    self.results.add("start", STARTED, runner.name, runner.started)
                return
            new = self._start(runner.contender)
            new.peer.close()
            self.results.add("start", STARTED, runner.name, new.started)

        self._in_turns("start", 1, "a new process", work)

    def _start(self, contender: Contender, **settings: object) -> Runner:
        """A new process that has given its first token."""
        options: dict[str, object] = {}
        if contender.is_tiercel:
            options = {"kv_disk": "off", "kv_memory": f"{self._rules.kv_memory}GiB", "model_cache": f"{self._folder}/models"}
        elif contender.entry.peer in ("openvino", "vllm"):
            options = {"kv_gib": self._rules.kv_memory}
        elif contender.entry.peer == "llamacpp":
            options = {"folder": f"{self._folder}/"}
        peer = contender.start(self._rules.threads, {**options, **settings})
        peer.generate(self._opening, 1)
        return Runner(contender, peer, perf_counter() - peer.begun, peer.peak_memory())

    def _in_turns(self, kind: str, size: float, label: str, work: Callable[[Runner, int], None]) -> None:
        """All do a piece of work, again and again while there are runs left and it is quick."""
        spent: dict[str, float] = defaultdict(float)
        for run in range(self._rules.runs):
            for runner in list(self._runners):
                before, seconds = self._pace.get((kind, runner.name), (size, 0.0))
                expected = seconds * size / before
                if run == 0 and expected > self._rules.patience:
                    reason = f"{label}: left out, since it would take more than {expected:.0f} s"
                    self.results.remarks.append((runner.name, reason))
                elif run == 0 or (runner.name in spent and spent[runner.name] * (run + 1) / run <= REPEAT_SECONDS):
                    self._say(f"{label}, run {run + 1} of {self._rules.runs}: {runner.name}")
                    spent[runner.name] += self._turn(runner, work, run, label)
            if run == 0:
                self._pace.update({(kind, name): (size, seconds) for name, seconds in spent.items()})

    def _turn(self, runner: Runner, work: Callable[[Runner, int], None], run: int, label: str) -> float:
        """Seconds of one turn. Who fails takes part no longer."""
        start = perf_counter()
        try:
            work(runner, run)
            runner.peak = max(runner.peak, runner.peer.peak_memory())
        except TiercelError as error:
            self._runners.remove(runner)
            runner.peer.close()
            self.results.remarks.append((runner.name, f"{label}: {error}"))
        return perf_counter() - start
