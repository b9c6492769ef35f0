"""Peers by name. Each is imported, or started, only when asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

from tiercel.bench.measure import Subject
from tiercel.registry import Registry
from tiercel.types import InvalidInput

PEERS = Registry("peer", {"transformers": "tiercel.bench.peers.transformers:TransformersPeer"})


def load_peer(name: str, model: Path, threads: int) -> Subject:
    """The peer, ready to generate on so many threads: one of `PEERS` with this model, or NAME=PROGRAM:MODEL with its own.

    Raises InvalidInput if it is unknown or not installed, TiercelError if it does not start.
    """
    if "=" in name:
        from tiercel.bench.peers.external import ExternalPeer, PeerSpec

        spec = PeerSpec.parse(name)
        return ExternalPeer(spec.title, spec.command(threads))
    try:
        make = cast("Callable[[Path, int], Subject]", PEERS.load(name))
    except ImportError as error:
        raise InvalidInput("peer", f"{name} is not installed; this gets it: pip install 'tiercel[bench]'") from error
    return make(model, threads)
