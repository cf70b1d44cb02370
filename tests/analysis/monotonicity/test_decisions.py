"""The stage's records against the models' own logits, and what must hold of the groups."""

import pytest
import torch
from transformers import Gemma2ForCausalLM

from epsilon_dpo.analysis.monotonicity.decisions import decisions, summary
from epsilon_dpo.analysis.monotonicity.params import Monotonicity
from epsilon_dpo.pipeline.stage.journal import Journal

pytestmark = pytest.mark.numeric

PARAMS = Monotonicity(epsilon=0.1, batch_size=4, token_chunk=7)


@pytest.fixture
def folders(tiny_gemma, tmp_path):
    """A policy and its reference, not far apart; the reference is stored in bfloat16."""
    policy = tiny_gemma(0)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    for name, model in (("policy", policy), ("reference", tiny_gemma(0).bfloat16())):
        model.save_pretrained(tmp_path / name)
    models = (
        Gemma2ForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float64, attn_implementation="eager").eval()
        for name in ("policy", "reference")
    )
    return tmp_path / "policy", tmp_path / "reference", *models


def test_equals_the_plain_formulas(folders, token_pairs, tmp_path):
    """In float32, and also where the batches, four pairs each, go through a journal."""
    policy_folder, reference_folder, policy, reference = folders
    pairs = token_pairs(11)
    journal = Journal(tmp_path / "scratch")
    records = decisions(policy_folder, reference_folder, pairs, PARAMS, journal)
    journal.close()
    assert [record["id"] for record in records] == [pair["id"] for pair in pairs]

    def sums(pair, side):
        ids, start = torch.tensor([pair["prompt_ids"] + pair[side]]), len(pair["prompt_ids"]) - 1
        with torch.no_grad():
            f, g = (model(ids).logits[0, start:-1].double() for model in (policy, reference))
        labels = ids[0, start + 1 :, None]
        pick = lambda logits: logits.log_softmax(-1).gather(1, labels).sum().item()  # noqa: E731
        pi, ref = f.log_softmax(-1), g.log_softmax(-1)
        return pick(f), pick(1.1 * f - 0.1 * g), pick(0.9 * f + 0.1 * g), pick(g), (pi.exp() * (pi - ref)).sum().item()

    for pair, record in zip(pairs, records, strict=True):
        chosen, rejected = sums(pair, "chosen_ids"), sums(pair, "rejected_ids")
        z, z_minus, z_plus, gamma, _ = (w - r for w, r in zip(chosen, rejected, strict=True))
        found = [record[name] for name in ("z", "z_minus", "z_plus", "margin", "kl_chosen", "kl_rejected")]
        assert found == pytest.approx([z, z_minus, z_plus, z - gamma, chosen[4], rejected[4]], abs=2e-4)
        assert record["first_order"] == pytest.approx(z - gamma - (chosen[4] - rejected[4]), abs=4e-4)
        step = (z_minus > z > z_plus) - (z_plus > z > z_minus)
        assert (record["step"], record["group"]) == (step, {1: "decreasing", -1: "increasing", 0: "neither"}[step])
    assert {record["step"] for record in records} >= {1, -1}


def test_of_answers_of_one_token_the_margin_alone_decides(folders, token_pairs):
    """There the normalisers of mixed logits cancel: z_minus = z + ε h, z_plus = z - ε h."""
    pairs = [{**pair, "chosen_ids": pair["chosen_ids"][:1], "rejected_ids": [7]} for pair in token_pairs(6)]
    for record in decisions(*folders[:2], pairs, PARAMS):
        changes = [record["delta_minus"], record["delta_plus"]]
        assert changes == pytest.approx([0.1 * record["margin"], -0.1 * record["margin"]], abs=1e-5)


def test_batches_change_nothing_but_rounding(folders, token_pairs):
    one, many = (
        decisions(*folders[:2], token_pairs(11), PARAMS.model_copy(update={"batch_size": size})) for size in (1, 11)
    )
    assert [record["step"] for record in one] == [record["step"] for record in many]
    assert [record["margin"] for record in one] == pytest.approx([record["margin"] for record in many], abs=1e-4)


def test_a_policy_that_is_its_reference_decides_nothing(folders, token_pairs):
    pairs = token_pairs(5)
    records = decisions(folders[1], folders[1], pairs, PARAMS)
    assert all(record["group"] == "neither" and record["margin"] == 0.0 for record in records)
    assert summary(records, pairs, 0.95)["share/neither"] == 1.0


def test_a_summary_by_hand():
    rows = [
        ("decreasing", 1, 3.0, 1.0),
        ("decreasing", 1, 5.0, -0.1),
        ("increasing", -1, -1.0, -2.0),
        ("neither", 0, 0.0, 0.0),
    ]
    records = [{"group": g, "step": s, "margin": m, "first_order": d} for g, s, m, d in rows]
    found = summary(records, [{"prompt_ids": [n]} for n in range(4)], 0.95)
    assert found["n"] == 4 and found["share/decreasing"] == 0.5 and found["share/increasing"] == 0.25
    assert found["margin/decreasing"] == 4.0 and found["margin/decreasing_high"] == pytest.approx(4 + 12.706205)
    assert "margin/increasing" not in found  # one pair has no interval
    assert found["first_order_agreement"] == pytest.approx(2 / 3)


def test_copies_of_a_prompts_pair_narrow_no_interval():
    """`pairs: all` gives a prompt several pairs, whose margins depend on each other."""
    records = [{"group": "decreasing", "step": 1, "margin": m, "first_order": m} for m in (1.0, 2.0, 4.0, 5.0)]
    prompts = [{"prompt_ids": [n]} for n in range(4)]
    once, thrice = summary(records, prompts, 0.95), summary(records * 3, prompts * 3, 0.95)
    for end in ("", "_low", "_high", "_n"):
        assert thrice[f"margin/decreasing{end}"] == pytest.approx(once[f"margin/decreasing{end}"])
    assert "margin/decreasing" not in summary(records, prompts[:1] * 4, 0.95), "one prompt has no interval"
