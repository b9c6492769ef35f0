"""What all tests share."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # before torch is loaded, as the reference back end does it
os.environ["TIERCEL_KV_DISK"] = "off"  # tests leave the user's cache alone; those about the disk name a folder
os.environ["TIERCEL_MODEL_CACHE"] = "off"

from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("soak", deadline=None, max_examples=5_000)
settings.load_profile("default")
