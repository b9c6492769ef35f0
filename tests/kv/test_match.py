"""The longest reusable prefix, against the definition."""

from hypothesis import given
from hypothesis import strategies as st

from tiercel.kv.match import first_needed, longest_match
from tiercel.models.null import null_groups
from tiercel.types import BLOCK_TOKENS

LINKS = [bytes([number]) * 32 for number in range(12)]


@given(
    st.lists(st.sampled_from([None, 1, 2, 64, 65, 66, 129, 130, 400]), min_size=1, max_size=3),
    st.lists(st.sets(st.sampled_from(LINKS)), min_size=3, max_size=3),
    st.integers(0, len(LINKS)),
)
def test_it_is_the_longest_prefix_after_which_every_row_sees_its_keys(windows, present, count):
    groups = null_groups(windows)

    def complete(length):
        """Whether every key is there that the row at position length * BLOCK_TOKENS can see."""
        row = length * BLOCK_TOKENS
        for group, window in enumerate(windows):
            first = 0 if window is None else max(0, row - window + 1)
            if any(LINKS[position // BLOCK_TOKENS] not in present[group] for position in range(first, row)):
                return False
        return True

    expected = max(length for length in range(count + 1) if complete(length))
    # a full group ends the search at its first gap, and so does the definition: no longer prefix is complete behind it
    assert longest_match(groups, LINKS[:count], lambda group, link: link in present[group]) == expected


@given(st.integers(1, 300), st.integers(0, 9))
def test_blocks_before_the_first_needed_are_out_of_sight(window, count):
    (group,) = null_groups([window])
    row = count * BLOCK_TOKENS
    visible = [block for block in range(count) if (block + 1) * BLOCK_TOKENS - 1 > row - window]
    assert first_needed(group, count) == (visible[0] if visible else count)
