"""Where the native library is, if not in the package."""

import os
from pathlib import Path


def native_library() -> Path | None:
    """TIERCEL_NATIVE_LIBRARY: a library to use instead of the package's own, such as one built with sanitizers."""
    path = os.environ.get("TIERCEL_NATIVE_LIBRARY", "")
    return Path(path) if path else None
