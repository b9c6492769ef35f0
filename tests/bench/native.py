"""Whether the native back end is there."""

import pytest

from tiercel.bench.programs import open_pool

needs_native = pytest.mark.skipif(open_pool(1) is None, reason="the native library is not built, or does not run here")
