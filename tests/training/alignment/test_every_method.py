"""What must hold for each method that a run of params.yaml or of presets/all-methods.yaml names."""

import math

import pytest
from runs import RUNS, weights

from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.stage.files import read_jsonl

BASE = {
    "loss", "learning_rate", "grad_norm", "entropy", "num_input_tokens_seen",
    *(f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")),
    *(f"{name}/{side}" for name in ("logps", "logps_per_token", "tokens") for side in ("chosen", "rejected")),
}  # fmt: skip
OF_A_REFERENCE = {"margins_raw", "kl/fwd_data", "kl/rev_data", "kl/fwd_proxy"}


@pytest.mark.parametrize("name", RUNS)
def test_hard_cases_stay_finite_and_the_base_metrics_are_there(run, name, token_pairs):
    """Batches of one pair, an empty answer on either side, equal policy and reference, bfloat16, a checkpoint."""
    pairs = token_pairs(4)
    pairs[0]["chosen_ids"] = pairs[1]["rejected_ids"] = []
    settings = {"batch_size": 2, "micro_batch_size": 1, "num_train_epochs": 3.0, "bf16": True, "save_steps": 4}
    folder = run("hard", RUNS[name], pairs=pairs, **settings)
    rows = read_jsonl(folder / "metrics.jsonl")
    assert len(rows) == 6 and all(math.isfinite(value) for row in rows for value in row.values())
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())
    referred = method_of(name, RUNS[name]).needs_reference
    for row in rows:
        assert row.keys() >= BASE and (row.keys() & OF_A_REFERENCE == (OF_A_REFERENCE if referred else set()))
