"""The head under FSDP: two processes that each hold half of every weight."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from transformers import Gemma2ForCausalLM

from epsilon_dpo.models.logps.head import Scoring, add_logps_head, head_of
from epsilon_dpo.models.logps.kernel import Reference


def rows(rank):
    ids = torch.randint(3, 64, (4, 9), generator=torch.Generator().manual_seed(rank))
    completion = torch.ones_like(ids)
    completion[:, :4] = 0
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": completion}


def loss_of(policy, reference, rank):
    with torch.no_grad():
        states = Reference(reference(**rows(rank)), head_of(reference))
    tokens = policy(**rows(rank), scoring=Scoring(7, states, 0.1))
    assert tokens.delta_minus is not None
    chosen, rejected = tokens.policy.sum(-1).chunk(2)
    return (chosen - rejected).sum()


def compare(rank: int, folders: list[Path]) -> None:
    """Gradients of each folder's policy, sharded, on two ranks' rows, against those of it unsharded on all rows."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folders[0]}/meet", rank=rank, world_size=2)
    for folder in folders:
        unsharded, sharded, reference = (Gemma2ForCausalLM.from_pretrained(folder / name) for name in ("0", "0", "1"))
        for model in (unsharded, sharded, reference):
            add_logps_head(model)
        for part in (*sharded.model.layers, sharded):
            fully_shard(part, reshard_after_forward=True)
        (sum(loss_of(unsharded, reference, each) for each in (0, 1)) / 2).backward()
        loss_of(sharded, reference, rank).backward()
        for (name, parameter), expected in zip(sharded.named_parameters(), unsharded.parameters(), strict=True):
            tolerance = 1e-6 * expected.grad.abs().max().item()
            found, said = parameter.grad.full_tensor(), f"{folder.name}, {name}: {{}}".format
            torch.testing.assert_close(found, expected.grad, rtol=0, atol=tolerance, msg=said)
    dist.destroy_process_group()


@pytest.mark.slow
def test_sharded_weights_get_the_gradients_of_unsharded_ones(tiny_gemma, tmp_path):
    """Also where the head's weights are given away after the forward pass and gathered again for the backward pass."""
    folders = [tmp_path / name for name in ("tied", "untied")]
    for folder in folders:
        for seed in (0, 1):
            tiny_gemma(seed, tie_word_embeddings=folder.name == "tied").save_pretrained(folder / str(seed))
    spawn(compare, args=(folders,), nprocs=2)
