"""Answers the requests of `tiercel bench` with another program.

    PYTHON serve.py PEER.py PROGRAM MODEL THREADS

PEER.py, a file beside this one, has `load(program, model, threads)`; what it returns generates so many tokens greedily, and
tells the seconds to the first one and for each later one. Standard input and output carry one JSON object a line:
{"ready": true} comes out once, and then for every {"prompt": [token ids], "num_tokens": n} that goes in
{"first": seconds, "per_token": seconds}.
"""

import ctypes
import json
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)


def main(peer: str, program: str, model: str, threads: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a paused process does not notice that its caller is gone
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries say this and that on standard output
    generate = runpy.run_path(peer)["load"](program, model, int(threads))
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        first, per_token = generate(request["prompt"], request["num_tokens"])
        print(json.dumps({"first": first, "per_token": per_token}), file=replies, flush=True)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose files have the names of the libraries they import
    main(*sys.argv[1:])
