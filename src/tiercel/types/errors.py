"""Errors a user can meet. Each names what was wrong and, where there is one, the mend."""


class TiercelError(Exception):
    """Base of every error raised on purpose."""


class InvalidInput(TiercelError, ValueError):
    """A request or setting that cannot be served as given. `field` is the name the user wrote."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class ModelError(TiercelError):
    """A model that cannot be found, read or run."""


class CheckpointError(ModelError):
    """A model file whose bytes do not make sense: truncated, corrupt or of an unknown format."""


class EngineDead(TiercelError):
    """The engine process is gone; nothing more can be computed by this client."""
