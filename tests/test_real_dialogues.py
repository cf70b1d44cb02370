"""Real dialogues and a real pretrained model through every stage of the DAG."""

import csv
import json
import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer
from whole_pipeline import all_stages, copy_project, link_files, metrics_of, repro, with_preset

from epsilon_dpo.pipeline.stage.files import read_jsonl

pytestmark = pytest.mark.slow

RUNS = ["dpo", "epsilon_dpo", "tr_dpo"]


def real_hh_folder() -> Path:
    folder = Path(os.environ.get("EPSILON_DPO_HH_FOLDER", "no folder is set")).resolve()
    if not (folder / "harmless-base" / "test.jsonl.gz").is_file():
        pytest.skip("set EPSILON_DPO_HH_FOLDER to a folder with harmless-base/test.jsonl.gz")
    return folder


# test_contract.py reads all of these dialogues; the stages after it are the same for any pairs.
@pytest.mark.campaign
def test_real_hh_dialogues_through_every_stage(tmp_path: Path) -> None:
    """The preset of the README on the real harmless-base test file; the validation names its known defects.

    With half of its SFT and answers half as long, for time.
    """
    hh = copy_project(tmp_path / "hh")
    link_files(real_hh_folder(), hh / "data/hh-rlhf")  # where the preset looks
    with_preset(hh, "hh-local", {"sft.max_steps": 50, "sample.max_new_tokens": 32})
    assert set(repro(hh)) == all_stages(hh)
    found = json.loads((hh / "out/validate/validation.json").read_text("utf-8"))["defects"]
    defects = {defect["name"]: defect["count"] for defect in found}
    assert defects["empty_chosen_single_turn"] == 3
    assert defects["rejected_leaves_chosen_prompt"] == 4
    assert defects["repeated_role_chosen"] == 8
    assert defects["duplicated_prompts"] == 2
    for run in RUNS:
        score, kl = metrics_of(hh, f"score/{run}"), metrics_of(hh, f"kl/{run}")
        assert score["n"] > 150 and kl["kl_fwd_rb"] > 2 * kl["kl_fwd_rb_se"] > 0.0
        assert not [name for name in score if name.startswith("true")], "nobody knows the truth here"
    assert metrics_of(hh, "judge")["accuracy_n"] > 500, "the labels of dialogues of several turns are judged too"
    assert metrics_of(hh, "controls")["win_rate/chosen_vs_chosen"] == 0.5
    assert_the_report_says_what_this_many_prompts_allow(hh)


def assert_the_report_says_what_this_many_prompts_allow(project: Path) -> None:
    """Rates, intervals and the prompts that a difference would take, computed here from the verdicts alone."""
    with (project / "out/report/comparisons.csv").open(encoding="utf-8") as file:
        compared = [row for row in csv.DictReader(file) if row["opponent"] == "chosen"]
    wins: dict[str, np.ndarray] = {}
    for run in RUNS:
        records = read_jsonl(project / "out/score" / run / "records.jsonl")
        wins[run] = np.array([record["win"] for record in records if record["opponent"] == "chosen"])
        score, rate, n = metrics_of(project, f"score/{run}"), wins[run].mean(), len(wins[run])
        half = 1.96 * (rate * (1.0 - rate) / n) ** 0.5
        low, high = score["win_rate/chosen_low"], score["win_rate/chosen_high"]
        assert score["win_rate/chosen"] == pytest.approx(rate)
        assert (low, high) == pytest.approx((rate - half, rate + half), abs=0.02)
    assert [(row["first"], row["second"]) for row in compared] == list(combinations(RUNS, 2))
    for row in compared:
        difference = wins[row["first"]] - wins[row["second"]]
        assert float(row["difference"]) == pytest.approx(difference.mean())
        assert int(row["n"]) == len(difference), "one answer to each prompt"
        if difference.mean() != 0.0:  # z of 0.05 / 3, two-sided, and of a power of 0.8
            needed = ((2.394 + 0.8416) * difference.std(ddof=1) / difference.mean()) ** 2
            assert int(row["n_needed"]) == pytest.approx(max(needed, 7), rel=1e-3, abs=1)
        decided = not float(row["low_together"]) <= 0.0 <= float(row["high_together"])
        assert (row["outcome"] != "cannot be told apart") == decided
        assert not decided or float(row["p_holm"]) <= 0.05
    page = (project / "out/report/report.html").read_text("utf-8")
    assert f"{len(difference)} held-out prompts" in " ".join(page.split())
    if all(row["outcome"] == "cannot be told apart" for row in compared):
        fewest = min(int(row["n_needed"]) for row in compared if row["n_needed"])
        assert f"{fewest:,} prompts" in page


@pytest.mark.campaign  # six minutes; test_model_families.py takes small models of its family and tokenizer to answers
def test_a_real_pretrained_model_through_every_stage(tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct with its own tokenizer and chat template, a few steps on real dialogues."""
    models = Path(os.environ.get("EPSILON_DPO_REAL_MODELS", Path.home() / ".cache" / "epsilon-dpo"))
    smollm2 = models / "SmolLM2-135M-Instruct"
    if not smollm2.is_dir():
        pytest.skip("run `python tests/fetch_real_models.py` first")
    project = copy_project(tmp_path / "smollm2")
    link_files(real_hh_folder(), project / "data/hh-rlhf")
    model = {
        "source": "pretrained",
        "path": str(smollm2),
        "revision": None,
        "dtype": "float32",
        "chat_template": "own",
        "stop_token": "<|im_end|>",
    }
    few = {"max_steps": 2, "batch_size": 2, "micro_batch_size": 2}
    changes = {
        "fetch.max_train_pairs": 60,
        "fetch.max_eval_pairs": 24,
        "base": model,
        "tokens.max_prompt_length": 160,
        "tokens.max_length": 224,
        "validate.max_dropped_share": 0.8,
        "validate.max_truncated_share": 0.5,
        "validate.min_train_pairs": 4,
        "validate.min_eval_pairs": 2,
        "sample.turns": "all",
        "sample.max_prompts": 3,
        "sample.max_new_tokens": 16,
        "runs": {"epsilon_dpo": {"method": "epsilon_dpo", "beta": 0.1, "epsilon": 0.01}},
        **{f"{block}.{key}": value for block in ("judge", "sft", "align") for key, value in few.items()},
    }
    with_preset(project, "hh-local", changes)
    assert set(repro(project)) == all_stages(project)
    pair = json.loads((project / "out/pairs/train.jsonl").read_text("utf-8").splitlines()[0])
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    text = tokenizer.decode(pair["prompt_ids"] + pair["chosen_ids"])
    assert text.startswith("<|im_start|>system") and text.count("<|im_start|>assistant") >= 1
    assert pair["chosen_ids"][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert metrics_of(project, "align/metrics/epsilon_dpo")["steps"] == 2
    answered = read_jsonl(project / "out/sample/epsilon_dpo/samples.jsonl")
    assert any(len(answer["prompt"]) > 1 for answer in answered), "a dialogue of several turns is answered and judged"
    assert metrics_of(project, "kl/epsilon_dpo")["kl_fwd_rb"] >= 0.0
