"""Loading without looking for garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """For as long as modules and models are loaded. What is made meanwhile stays: Python's search for garbage finds none among
    it, again and again, which would take a tenth of a start. It is left out of later searches as well.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
