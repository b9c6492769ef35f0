from tiercel.kv.hashing import HashChain
from tiercel.kv.history import History
from tiercel.types import BLOCK_TOKENS, BlockHash

B = BLOCK_TOKENS


def chain(tokens):
    result = HashChain(BlockHash(b"r" * 32))
    result.extend(tokens)
    return result


def remember(history, tokens):
    known = chain(tokens)
    for link, content in zip(known.links, known.contents, strict=True):
        history.met(link, content)
    return known


def test_it_finds_the_first_token_that_differs_from_what_agrees_longest():
    history = History(100)
    remember(history, range(2 * B))
    remember(history, [*range(B + 20), *[7] * (B - 20)])
    asked = chain([*range(B + 30), *[9] * (B - 30)])
    found = history.divergence(asked.contents[1])
    assert (found.position, found.cached_token) == (B + 30, B + 30)
    assert history.divergence(chain(range(500, 500 + B)).contents[0]).position == 0


def test_another_prefix_is_no_continuation():
    history = History(100)
    remember(history, range(2 * B))
    asked = chain([*range(1, B + 1), *range(B, 2 * B)])
    assert history.divergence(asked.contents[1]) is None


def test_it_tells_how_a_block_was_lost_until_it_is_met_again():
    history = History(100)
    known = remember(history, range(2 * B))
    history.lost(known.links[0], stored=True)
    history.lost(known.links[1], stored=False)
    assert [history.fate(link) for link in known.links] == ["evicted", "not_written"]
    remember(history, range(B))
    assert history.fate(known.links[0]) == "here"
    assert history.fate(BlockHash(b"?" * 32)) is None
    history.lost(BlockHash(b"?" * 32), stored=True)
    assert history.fate(BlockHash(b"?" * 32)) is None


def test_it_forgets_the_oldest_and_leaves_nothing_behind():
    history = History(3)
    first = remember(history, range(2 * B))
    remember(history, range(1000, 1000 + 3 * B))
    assert history.fate(first.links[1]) is None
    assert history.divergence(chain([*range(B), *[1] * B]).contents[1]) is None
    assert len(history._children) == 3
