"""Sizes as people write them."""

import re

_UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_size(value: object) -> object:
    """ "2GiB", "512M" or a number of bytes -> bytes; "auto" passes through. Raises ValueError with an example."""
    if not isinstance(value, str) or value == "auto":
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", value.upper())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"not a size: {value!r}; write it like 2GiB, 512MiB or 1073741824")
    return int(float(match[1]) * _UNITS[match[2]])


def format_size(size: int) -> str:
    """1610612736 -> "1.5 GiB"."""
    amount, unit = float(size), "B"
    for bigger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, bigger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
