"""FLOPs by the formulas against numbers by hand, and against the products that a simulated step computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from forecast_sizes import SIZES
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import addmm_flop, flop_registry
from transformers import Gemma2Config, LlamaConfig, PreTrainedConfig

from epsilon_dpo.forecast import simulation
from epsilon_dpo.forecast.architecture import model_of, sizes_of
from epsilon_dpo.forecast.flops import flops, of_sampling, of_training, plus_references
from epsilon_dpo.forecast.lengths import Form, Lengths, chosen_rows, shared_rows, two_rows
from epsilon_dpo.forecast.live import LiveBytes, without_memory
from epsilon_dpo.forecast.simulation import How, References, Rows, Scored, alignment_step
from epsilon_dpo.forecast.trainings import further_passes
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.training.loop.params import LoRA

ADAPTER = LoRA(r=1, lora_alpha=4, lora_dropout=0.0, target_modules=["q_proj"], quantise=None)


def test_a_pair_by_hand() -> None:
    """18,432 weights of projections, 2 layers of width 32, a head of 64 x 32; a row of 10 tokens, 4 of them answers."""
    with without_memory():
        sizes = sizes_of(model_of(Gemma2Config(**SIZES), torch.float32))
    form = Form(tokens=10, columns=10, squares=100, scored=4, most_scored=4)
    own = of_training(adapter=False, checkpointed=False, recomputed_attention=True)
    assert own == (3, 4, 4)
    products = plus_references(own, 1, moving=False, kl_gradient=False)
    assert products == (4, 5, 5)
    assert flops(sizes, form, products) == 4 * 2 * 18_432 * 10 + 5 * 4 * 2 * 32 * 100 + 5 * 2 * 64 * 32 * 4
    assert of_training(adapter=True, checkpointed=True, recomputed_attention=False) == (3, 4, 3)
    assert plus_references(own, 2, moving=True, kl_gradient=False) == (5, 6, 7)
    new = 2 * 18_432 * 3 + 4 * 2 * 32 * (1 + 2 * 2) + 2 * 64 * 32 * 2
    assert of_sampling(sizes, prompt=1, new_tokens=2) == new


def test_passes_beside_the_references() -> None:
    """KTO scores mismatched answers by both models; what is looked at ahead is computed twice in accumulated steps."""
    further = {
        (name, accumulates): further_passes(method_of("run", {"method": name, "beta": 0.1, **values}), accumulates)
        for name, values in (("dpo", {}), ("kto", {}), ("beta_dpo", {"alpha": 0.6, "rho": 0.2, "momentum": 0.9}))
        for accumulates in (False, True)
    }
    expected = {"dpo": (0, 0), "kto": (2, 2), "beta_dpo": (0, 2)}
    assert further == {(name, bool(n)): passes for name, both in expected.items() for n, passes in enumerate(both)}


def test_forms_of_rows() -> None:
    lengths = Lengths([(4, 3, 1), (2, 5, 5)], 2, measured=True)
    assert shared_rows(lengths) == Form(tokens=10, columns=12, squares=(64 + 144) / 2, scored=7, most_scored=10)
    assert two_rows(lengths) == Form(tokens=13, columns=7, squares=(49 + 25 + 49 + 49) / 2, scored=7, most_scored=4)
    assert chosen_rows(lengths, every_token=False) == Form(7, 7, 49, 4, 3)
    assert chosen_rows(lengths, every_token=True) == Form(7, 7, 49, 7, 7)


@pytest.mark.parametrize(
    ("config", "references", "lora", "checkpointing"),
    [
        (Gemma2Config(**SIZES), References(1), None, False),
        (Gemma2Config(**SIZES), References(2), None, True),
        (Gemma2Config(**SIZES), References(1, separate=False), ADAPTER, False),
        (LlamaConfig(**SIZES, attn_implementation="eager"), References(0), None, True),
    ],
    ids=["eager attention", "three models, checkpointed", "an adapter", "no reference"],
)
def test_products_that_a_step_computes(
    monkeypatch: pytest.MonkeyPatch,
    config: PreTrainedConfig,
    references: References,
    lora: LoRA | None,
    checkpointing: bool,
) -> None:
    """Three pairs of 20 tokens: what torch's own formulas make of each operation's shapes."""
    counted = [0]
    formulas = {**flop_registry, torch.ops.aten.addmm_: addmm_flop}

    class Counting(LiveBytes):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = super().__torch_dispatch__(func, types, args, kwargs)
            if func._overloadpacket in formulas:
                counted[0] += formulas[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
            return out

    @contextmanager
    def counting() -> Iterator[LiveBytes]:
        with FakeTensorMode(), Counting() as live:
            yield live

    with without_memory():
        sizes = sizes_of(model_of(config, torch.float32))
    monkeypatch.setattr(simulation, "without_memory", counting)
    how = How(torch.float32, False, checkpointing, lora, False, "cuda")
    alignment_step(config, how, Rows(3, 20, 36), Scored(references, 512))
    own = of_training(lora is not None, checkpointing, sizes.eager and not checkpointing)
    products = plus_references(own, references.count, references.moving, kl_gradient=False)
    said = 3 * flops(sizes, Form(20, 20, 400, 12, 12), products)
    # The first layer's inputs need no gradient by themselves, and an adapter's own products are not counted.
    assert counted[0] == pytest.approx(said, rel=0.06)
