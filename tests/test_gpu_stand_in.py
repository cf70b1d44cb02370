"""What trains, samples and judges, on a GPU that is none (gpu_stand_in.py): it must not mix devices there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from whole_pipeline import all_stages, copy_project, metrics_of, repro, with_preset

TESTS = Path(__file__).resolve().parent
in_stand_in = pytest.mark.skipif("gpu_stand_in" not in sys.modules, reason="the last test here runs it")


@in_stand_in
def test_tensors_of_two_devices_do_not_meet():
    here, there = torch.ones(2, 3), torch.ones(2, 3, device="cuda")
    assert (there.device, there.is_cuda, here.is_cuda) == (torch.device("cuda", 0), True, False)
    assert (there * 2 + there.new_tensor(1.0)).sum().device == there.device
    for mixed in (
        lambda: here + there,
        lambda: there @ here.T,
        lambda: torch.cat([there, here]),
        lambda: here.add_(there),
    ):
        with pytest.raises(RuntimeError, match="on the same device"):
            mixed()
    assert (there + torch.tensor(1.0)).is_cuda, "a number of the processor may be taken"
    with pytest.raises(RuntimeError, match="on the same device"):
        torch.tensor(0.0).add_(there.sum())
    assert there[torch.tensor([0])].is_cuda, "and its indices"
    there[torch.tensor([0])] = 2.0
    for mixed in (
        lambda: there.index_put_((torch.tensor([0]),), torch.ones(1, 3)),
        lambda: torch.stack([there.sum(), torch.tensor(1.0)]),
        lambda: there.index_select(0, torch.tensor(0)),
    ):
        with pytest.raises(RuntimeError, match="device"):
            mixed()
    with pytest.raises(NotImplementedError, match="int64"):
        there.long() @ there.long().T
    with pytest.raises(RuntimeError, match="indices should be"):
        here[torch.tensor([0], device="cuda")]


@in_stand_in
def test_numpy_and_generators_are_the_processors():
    there = torch.zeros(2, device="cuda")
    with pytest.raises(TypeError, match="can't convert cuda"):
        there.numpy()
    assert there.cpu().numpy().tolist() == [0.0, 0.0]
    with pytest.raises(RuntimeError, match="generator"):
        there.exponential_(generator=torch.Generator())
    with pytest.raises(RuntimeError, match="generator"):
        torch.zeros(2).exponential_(generator=torch.Generator("cuda"))
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(2, device="cuda", generator=torch.Generator())
    own = torch.Generator("cuda").manual_seed(1)
    assert there.exponential_(generator=own).min() > 0 and torch.rand(2, device="cuda", generator=own).is_cuda


@in_stand_in
def test_a_gradient_is_where_its_tensor_is():
    """Through copies to the other device, in a Function of its own, and in what is computed again."""

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            seen.append(grad.device.type)
            return grad * torch.full((2,), 2.0, device=grad.device)

    def computed_again(x):
        seen.append(x.device.type)
        return Doubled.apply(x).exp()

    seen = []
    leaf = torch.zeros(2, requires_grad=True)
    of_gpu = torch.utils.checkpoint.checkpoint(computed_again, leaf.to("cuda"), use_reentrant=False)
    of_gpu.cpu().sum().backward()
    assert seen == ["cuda"] * 3 and not leaf.grad.is_cuda
    assert leaf.grad.tolist() == [2.0, 2.0]


SHORT = (
    "test_gpu_stand_in.py",
    "training/alignment/test_on_gpu.py",
    "training/alignment/test_every_method.py",
    "models/logps/test_head.py",
    "models/logps/test_kernel.py",
    "judging/judges/test_pairrm.py",
    "sampling/decoding",
)
LONG = (
    "training/alignment/test_trainer.py",
    "training/alignment/test_step.py",
    "training/online/test_online_training.py",
    "training/sft/test_sft.py",
    "training/loop/test_adapters.py",
    "analysis",
    "judging/judges/test_reward_model.py",
    "judging/making",
    "sampling/answers",
)


@pytest.mark.slow
@pytest.mark.parametrize("files", [SHORT, pytest.param(LONG, marks=pytest.mark.campaign)], ids=["short", "long"])
def test_what_holds_on_a_processor_holds_there(files):
    named = [str(TESTS / file) for file in files]
    # Finite differences repeat many times what a plain gradient, whose tests stay, does once.
    chosen = ("-m", "not slow and not campaign", "-k", "not gradcheck")
    command = [sys.executable, "-m", "pytest", "-p", "gpu_stand_in", *chosen, "-x", *named]
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    found = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-5000:] + found.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.campaign
def test_the_pipeline_runs_there_and_finds_what_it_finds_on_a_processor(tmp_path):
    """Models differ by rounding: on a GPU the head's tiles are larger, and a tanh is torch's own."""
    project, processor = (copy_project(tmp_path / name) for name in ("gpu", "processor"))
    note = tmp_path / "stand_ins"
    paths = os.pathsep.join(map(str, (TESTS / "gpu_stand_in_everywhere", TESTS, project / "src")))
    for each, environment in ((project, {"PYTHONPATH": paths, "STAND_INS": str(note)}), (processor, {})):
        with_preset(each, "smoke", {})
        assert set(repro(each, **environment)) == all_stages(each)
    computing = {
        "judge",
        "sft",
        "controls",
        "align",
        "reference",
        "sample",
        "score",
        "kl",
        "monotonicity",
        "tournament",
    }
    assert computing <= set(note.read_text("utf-8").split())
    for run in ("dpo", "epsilon_dpo", "tr_dpo"):
        there, here = (
            {**metrics_of(each, f"align/metrics/{run}"), **metrics_of(each, f"kl/{run}")}
            for each in (project, processor)
        )
        for name in ("eval_loss", "eval_rewards/accuracies", "kl_fwd_data"):
            assert there[name] == pytest.approx(here[name], rel=0.02), (run, name)
