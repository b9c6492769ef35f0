"""Reads pip's installation report of torch on standard input; exits 1 if that build of torch needs CUDA on this platform."""

import json
import sys

from pip._vendor.packaging.requirements import Requirement

metadata = json.load(sys.stdin)["install"][0]["metadata"]
required = [Requirement(line) for line in metadata.get("requires_dist", [])]
here = {r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})}
sys.exit(any(name.startswith(("nvidia-", "cuda-")) for name in here))
