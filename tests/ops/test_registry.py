"""Choosing a back end."""

import builtins
import sys
from types import ModuleType

import pytest
import torch

from tiercel.ops import load_ops
from tiercel.types import InvalidInput, ModelError


def test_the_reference_is_the_default() -> None:
    assert load_ops().numerics == load_ops("reference").numerics


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        load_ops(threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InvalidInput, match="backend: must be one of cpu, reference, got 'abacus'"):
        load_ops("abacus")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("tiercel.ops.reference")]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without_torch(name: str, *rest: object) -> ModuleType:
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(ModelError, match=r"needs torch: pip install 'tiercel\[reference\]'"):
        load_ops()
