"""Peers by name."""

from pathlib import Path

import pytest

from tiercel.bench.peers import PEERS, load_peer
from tiercel.types import InvalidInput


def test_names() -> None:
    assert list(PEERS) == ["transformers"]


def test_an_unknown_peer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="unknown peer 'nobody'; known: transformers"):
        load_peer("nobody", tmp_path, 1)


def test_a_missing_peer_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS._entries, "transformers", "no_such_module:Peer")
    with pytest.raises(InvalidInput, match="pip install 'tiercel\\[bench\\]'"):
        load_peer("transformers", tmp_path, 1)
