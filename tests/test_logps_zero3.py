"""The head under DeepSpeed's ZeRO-3: two processes on the CPU that each hold half of every weight.

DeepSpeed is no dependency of this project: in an environment that also has it (`pip install deepspeed`; tested with
0.17.6 and 0.19.8), run `pytest -m slow tests/test_logps_zero3.py`. No GPU is needed.
"""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from test_logps_sharded import loss_of, rows
from torch.multiprocessing.spawn import spawn
from transformers import Gemma2ForCausalLM

from epsilon_dpo.models.logps.head import Scoring, add_logps_head, completion_logps, head_of

CONFIG = {
    "train_batch_size": 8,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_clipping": 0.0,
    "zero_allow_untested_optimizer": True,
    # Every weight is given away as soon as it may be. By default ones as small as these would never be.
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_live_parameters": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_prefetch_bucket_size": 0,
    },
}


def compare(rank: int, folder: Path, trained_head: bool) -> None:
    """Gradients of a sharded policy on two ranks' rows against those of a whole one on all rows, in two steps."""
    os.environ.update(DS_ACCELERATOR="cpu", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    import deepspeed  # reads the environment

    whole, sharded, reference = (Gemma2ForCausalLM.from_pretrained(folder / name) for name in ("0", "0", "1"))
    for model in (whole, sharded, reference):
        add_logps_head(model)
        model.get_output_embeddings().requires_grad_(trained_head)
    trained = [parameter for parameter in sharded.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01)
    engine, *_ = deepspeed.initialize(model=sharded, optimizer=optimizer, config=CONFIG)
    for _ in range(2):  # DeepSpeed records the order of the modules in the first step and follows it in the second
        with torch.no_grad():  # as the trainer looks ahead: not through the engine, with a pass backward still to come
            ahead, expected = (model(**rows(7), scoring=Scoring(7)).tokens.policy for model in (sharded, whole))
        torch.testing.assert_close(ahead, expected, rtol=0, atol=1e-5)
        (sum(loss_of(whole, reference, each) for each in (0, 1)) / 2).backward()
        loss = loss_of(engine, reference, rank)
        assert head_of(sharded).weight.numel() == 0  # given away until the pass backward
        engine.backward(loss)
        for parameter, other in zip(sharded.parameters(), whole.parameters(), strict=True):
            if parameter.requires_grad:
                gradient = deepspeed.utils.safe_get_full_grad(parameter)
                torch.testing.assert_close(gradient, other.grad, rtol=0, atol=1e-5 * other.grad.abs().max().item())
        engine.step()
        with torch.no_grad():
            for other in whole.parameters():
                other.sub_(0.01 * other.grad if other.grad is not None else 0.0)
                other.grad = None
    with pytest.raises(RuntimeError, match="not gathered"):
        completion_logps(sharded, reference, **rows(rank), token_chunk=7)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(("tied", "trained_head"), [(True, True), (False, True), (False, False)])
def test_partitioned_weights_get_the_gradients_of_whole_ones(tiny_gemma, tmp_path, tied, trained_head):
    """Also where the head's weights are gone after the forward pass, and where an empty head would go unnoticed because
    no gradient of its own is asked for."""
    pytest.importorskip("deepspeed")
    for seed in (0, 1):
        tiny_gemma(seed, tie_word_embeddings=tied).save_pretrained(tmp_path / str(seed))
    spawn(compare, args=(tmp_path, trained_head), nprocs=2)
