"""Programs to measure against."""

from tiercel.bench.peers.registry import PEERS, load_peer

__all__ = ["PEERS", "load_peer"]
