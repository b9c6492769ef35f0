"""Answers the requests of `tiercel bench` with one program, in a process of its own.

    PYTHON serve.py PEER.py PROGRAM MODEL THREADS [OPTIONS]

PEER.py has a class `Peer`, made from these (OPTIONS: a JSON object of further arguments). Its `generate(prompts, num_tokens)`
takes all prompts at once, gives each exactly so many tokens, greedily, and tells for each when its first and its last token
came, in seconds from the hand-over. Standard input and output carry one JSON object a line: {"ready": true} comes out once,
and then for every

    {"prompts": [[token ids], ...], "num_tokens": n}    {"times": [[first, last], ...]}, one for each prompt, in any order
    {"do": "keep"}, if the peer has that method         {"seconds": s}: what it has computed goes to where OPTIONS say
    {"do": "recall"}, likewise                          {"seconds": s}: and comes back from there
"""

import ctypes
import json
import os
import runpy
import signal
import sys
from time import perf_counter
from typing import Any

PR_SET_PDEATHSIG = 1  # prctl(2)


def main(script: str, program: str, model: str, threads: str, options: str = "{}") -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a paused process does not notice that its caller is gone
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries say this and that on standard output
    peer = runpy.run_path(script)["Peer"](program, model, int(threads), **json.loads(options))
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(peer, json.loads(line))), file=replies, flush=True)


def answer(peer: Any, request: dict[str, Any]) -> dict[str, object]:
    if "prompts" in request:
        return {"times": peer.generate(request["prompts"], request["num_tokens"])}
    begin = perf_counter()
    getattr(peer, request["do"])()
    return {"seconds": perf_counter() - begin}


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose files have the names of the libraries they import
    main(*sys.argv[1:])
