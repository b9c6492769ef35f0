"""What all tests share."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # before torch is loaded, as the reference back end does it

from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("soak", deadline=None, max_examples=5_000)
settings.load_profile("default")
