"""The transformers peer computes what the engine computes."""

from pathlib import Path

import torch

from tests.support.model_files import write_tiny_gguf
from tiercel import LLM
from tiercel.bench.measure import TiercelSubject
from tiercel.bench.peers import load_peer
from tiercel.bench.workload import Workload


def test_same_tokens_from_a_directory(llm: LLM, tiny_model: Path) -> None:
    prompt = Workload(259).prompt(90)
    peer = load_peer("transformers", tiny_model, torch.get_num_threads())
    done = peer.generate(prompt, 12)
    assert done.token_ids == TiercelSubject(llm).generate(prompt, 12).token_ids
    assert min(done.first, done.rest) > 0


def test_same_tokens_from_gguf(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    prompt = Workload(259).prompt(50)
    peer = load_peer("transformers", model, torch.get_num_threads())
    assert peer.generate(prompt, 8).token_ids == TiercelSubject(LLM(str(model))).generate(prompt, 8).token_ids
