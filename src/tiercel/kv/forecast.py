"""What a new process would take from a store for a prompt, and why no more: told beforehand, without a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import inf

from tiercel.kv.catalog import read_headers, read_object
from tiercel.kv.explain import explain
from tiercel.kv.hashing import HashChain, namespace_id, reusable_blocks, root_hash
from tiercel.kv.history import History
from tiercel.kv.match import first_needed, longest_match
from tiercel.kv.namespaces import difference, read_description
from tiercel.kv.objects import ObjectError, ObjectHeader, check_identity, decode_header, object_bytes
from tiercel.kv.retrieval import Arrival, Wanted
from tiercel.stores import Entry, Store
from tiercel.types import BLOCK_TOKENS, BlockHash, BlockKey, KVGroup, MissReason, Namespace, Reuse

_MOST_REMEMBERED = 1 << 20  # stored blocks that the prompt is compared with

Problem = tuple[MissReason, str]  # why a block cannot be used, and a sentence


@dataclass(frozen=True)
class Forecast:
    """reuse: what a new process would say that took all it can; bytes: what it would read for that."""

    reuse: Reuse
    bytes: int


def forecast(
    store: Store, namespace: Namespace, groups: Sequence[KVGroup], token_ids: Sequence[int], salt: str = ""
) -> Forecast:
    """Checks every byte that would be loaded. Whether computing would take less time is not weighed: that shows when it runs.

    Raises OSError where the store cannot be asked.
    """
    chain = HashChain(root_hash(namespace, salt), salt)
    chain.extend(token_ids)
    prefix = _Prefix(store, namespace_id(namespace), groups, chain.links[: reusable_blocks(len(token_ids))])
    prefix.check()
    number = prefix.longest()
    arrival = Arrival(prefix.links, chain)
    arrival.loaded_from = 0
    history = History(_MOST_REMEMBERED)
    if number < len(prefix.links):
        problem = prefix.problem_after(number) or _elsewhere(store, namespace, token_ids, salt, number)
        if problem is not None:
            arrival.missed, arrival.detail = problem
        for entry, header in read_headers(store, prefix.namespace):
            if isinstance(header, ObjectHeader):
                history.stored(entry.key.block_hash, header.content)
    return Forecast(explain(len(token_ids), number, chain, arrival, history), prefix.bytes(number))


class _Prefix:
    """The whole blocks that a prompt begins with, and which of them a store has."""

    def __init__(self, store: Store, namespace: str, groups: Sequence[KVGroup], links: Sequence[BlockHash]) -> None:
        self.namespace = namespace
        self.links = links
        self._store = store
        self._groups = groups
        wanted = [(group, link) for group in range(len(groups)) for link in links]
        there = store.exists([self._key(*each) for each in wanted], inf)
        self._usable = {each for each, found in zip(wanted, there, strict=True) if found}
        self._problems: dict[Wanted, Problem] = {}

    def longest(self) -> int:
        """Leading blocks that can be reused."""
        return longest_match(self._groups, self.links, lambda group, link: (group, link) in self._usable)

    def bytes(self, number: int) -> int:
        """What is read to reuse so many blocks."""
        return sum(object_bytes(self._groups[group].layout) for group, _ in self._needed(number))

    def check(self) -> None:
        """Reads what the longest prefix needs; if some of it is damaged, what the next shorter one needs, and so on."""
        sound: set[Wanted] = set()
        while unchecked := [each for each in self._needed(self.longest()) if each not in sound]:
            for each in unchecked:
                problem = self._problem(*each)
                if problem is None:
                    sound.add(each)
                else:
                    self._usable.remove(each)
                    self._problems[each] = problem

    def problem_after(self, number: int) -> Problem | None:
        """Why no more than `number` blocks can be reused, as far as the prompt's own objects tell."""
        if self._problems:
            return self._problems[min(self._problems, key=lambda each: self.links.index(each[1]))]
        rest = set(self.links[number:])
        if any(link in rest for _, link in self._usable):
            return "evicted", "it is not stored any more, though a part of the rest is"
        return None

    def _needed(self, number: int) -> list[Wanted]:
        return [
            (group, link) for group, spec in enumerate(self._groups) for link in self.links[first_needed(spec, number) : number]
        ]

    def _problem(self, group: int, link: BlockHash) -> Problem | None:
        key, layout = self._key(group, link), self._groups[group].layout
        try:
            data = read_object(self._store, Entry(key, object_bytes(layout)))
            if data is None:
                return "evicted", "it was removed a moment ago"
            check_identity(decode_header(data), key, layout)
        except ObjectError as error:
            return "other_namespace" if error.reason == "version" else "corrupt", str(error)
        return None

    def _key(self, group: int, link: BlockHash) -> BlockKey:
        return BlockKey(self.namespace, link, group, (0, self._groups[group].layout.num_kv_heads))


def _elsewhere(store: Store, namespace: Namespace, token_ids: Sequence[int], salt: str, number: int) -> Problem | None:
    """Whether another namespace of the same tenant has more than `number` blocks of these tokens."""
    most, text = number, ""
    for name, description in store.namespaces().items():
        other = read_description(description, namespace.tenant)
        if other is None or other == namespace:
            continue
        chain = HashChain(root_hash(other, salt))
        chain.extend(token_ids)
        there = {entry.key.block_hash for entry in store.list(name)}
        blocks = sum(1 for _ in takewhile(there.__contains__, chain.links))
        if blocks > most:
            most, text = (
                blocks,
                f"{blocks * BLOCK_TOKENS:,} tokens of it are stored, computed by {difference(namespace, other)}",
            )
    return ("other_namespace", text) if text else None
