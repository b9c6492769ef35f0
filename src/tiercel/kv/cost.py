"""Load or recompute: what a prefix costs either way, learnt from what both took."""

_WEIGHT = 0.3  # of the newest measurement
_FORGIVENESS = 0.9  # each time loading is turned down, its price falls a little, so that a store gets another chance


class LoadCost:
    """Seconds per byte loaded and per token computed, as moving averages. Until both are known, loading counts as right."""

    def __init__(self) -> None:
        self.seconds_per_byte: float | None = None
        self.seconds_per_token: float | None = None

    def loaded(self, num_bytes: int, seconds: float) -> None:
        """Notes what a load took, from request to the last byte's check."""
        if num_bytes:
            self.seconds_per_byte = _average(self.seconds_per_byte, seconds / num_bytes)

    def computed(self, num_tokens: int, seconds: float) -> None:
        """Notes what a step took that computed so many prompt tokens."""
        if num_tokens:
            self.seconds_per_token = _average(self.seconds_per_token, seconds / num_tokens)

    def worth_loading(self, num_bytes: int, num_tokens: int) -> bool:
        """Whether loading `num_bytes` beats computing `num_tokens`."""
        if self.seconds_per_byte is None or self.seconds_per_token is None:
            return True
        if num_bytes * self.seconds_per_byte <= num_tokens * self.seconds_per_token:
            return True
        self.seconds_per_byte *= _FORGIVENESS
        return False

    def recompute_seconds(self, num_tokens: int) -> float | None:
        return None if self.seconds_per_token is None else num_tokens * self.seconds_per_token


def _average(known: float | None, new: float) -> float:
    return new if known is None else known + _WEIGHT * (new - known)
