"""Every params file that is shipped is valid to the last number."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.check.params_file import ParamsFile, load_file
from epsilon_dpo.methods.registry import method_names
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.study.foreseen import neighbours

ROOT = Path(__file__).resolve().parent.parent
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.y*ml"))]


def test_all_files_are_found() -> None:
    presets = [
        "adaptive.yaml",
        "all-methods.yaml",
        "control.yaml",
        "hh-gemma-2-2b.yaml",
        "hh-local.yaml",
        "noise.yaml",
        "on-policy.yaml",
        "pareto.yaml",
        "rlhf.yaml",
        "smoke.yaml",
        "study-bfloat16.yaml",
        "study-budgets.yaml",
        "study-controlled.yaml",
        "study-perturbation.yaml",
        "study-smollm2.yaml",
    ]
    ultrafeedback = ["llama-3-8b-on-policy", "llama-3-8b", "mistral-7b-lora", "mistral-7b", "smollm2"]
    presets += [f"ultrafeedback-{name}.yaml" for name in ultrafeedback]
    assert {file.name for file in FILES} >= {"params.yaml", *presets}, "beside them lie a user's own"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file_is_valid(file: Path) -> None:
    assert load_file(file).runs


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_pairs_of_runs_are_counted(file: Path) -> None:
    runs = len(read_yaml(file)["runs"])
    assert set(re.findall(r"(\d+) pairs of runs", file.read_text("utf-8"))) <= {str(math.comb(runs, 2))}


def test_every_method_has_a_run_to_copy() -> None:
    """In presets/all-methods.yaml, or in params.yaml, where a new method of one's own gets its line; of a method that
    learns from its own answers on the page of methods."""
    files = (ROOT / "params.yaml", ROOT / "presets" / "all-methods.yaml")
    named = {run["method"] for file in files for run in read_yaml(file)["runs"].values()}
    page = (ROOT / "docs" / "methods.md").read_text("utf-8")
    online = set(re.findall(r"^  \w+: \{method: (\w+), .*\bprompts_per_step: ", page, re.M))
    assert named | online == set(method_names()) and online == {"rloo", "ppo"}


def test_all_methods_is_the_default_with_other_runs() -> None:
    """Then DVC takes the data, the judge and the SFT model of the one for the other; no two runs are the same."""
    default, preset = (read_yaml(ROOT / name) for name in ("params.yaml", "presets/all-methods.yaml"))
    default["tournament"]["max_prompts"] = preset["tournament"]["max_prompts"]  # pairs of runs grow with their square
    default["margins"] = {"source": "judge", "temperature": None}  # for the one method that needs them
    assert {key: default[key] for key in default if key != "runs"} == {
        key: preset[key] for key in preset if key != "runs"
    }
    runs = [sorted(run.items()) for run in preset["runs"].values()]
    assert len(runs) == 32 and all(run not in runs[:number] for number, run in enumerate(runs))


def test_the_level_in_bfloat16_is_the_controlled_one_with_other_runs() -> None:
    """So a replicate has the data, the reference and the judge of the other level at the same seed."""
    levels = read_yaml(ROOT / "study/claims.yaml")["levels"]
    assert levels["bfloat16"]["seeds"] == levels["controlled"]["seeds"]
    ours, other = (read_yaml(ROOT / "presets" / f"study-{name}.yaml") for name in ("bfloat16", "controlled"))
    assert {key for key in ours if ours[key] != other[key]} == {"tournament", "figures", "runs"}
    runs = ours.pop("runs").values()
    assert all(run.pop("step_precision") == "official_bf16" for run in runs)
    assert all(run in other["runs"].values() for run in runs), "the same β, ε and snapshots as with exact decisions"


def test_the_level_of_perturbed_betas_is_the_controlled_one_with_trainings_beside_dpos() -> None:
    """Each between its neighbours, as the study finds them."""
    levels = read_yaml(ROOT / "study/claims.yaml")["levels"]
    assert levels["perturbation"]["seeds"] == levels["controlled"]["seeds"]
    ours, other = (read_yaml(ROOT / "presets" / f"study-{name}.yaml") for name in ("perturbation", "controlled"))
    assert {key for key in ours if ours[key] != other[key]} == {"tournament", "figures", "runs"}
    runs, epsilon = ours["runs"], ours["monotonicity"]["epsilon"]
    between = {run: found for run in runs if None not in (found := neighbours(run, runs, epsilon))}
    assert between == {run: (f"{run}_lower", f"{run}_higher") for run in other["runs"] if run.startswith("dpo_b")}


def test_the_level_of_budgets_is_the_controlled_one_at_more_betas() -> None:
    """At seeds of its own and with six of its methods; β and the range of budgets were fixed before any value."""
    study = read_yaml(ROOT / "study/claims.yaml")
    levels = study["levels"]
    others = {seed for name, level in levels.items() if name != "budgets" for seed in level.get("seeds", [])}
    assert len(levels["budgets"]["seeds"]) == 8 and not others & set(levels["budgets"]["seeds"])
    ours, other = (read_yaml(ROOT / "presets" / f"study-{name}.yaml") for name in ("budgets", "controlled"))
    assert {key for key in ours if ours[key] != other[key]} == {"runs", "seed"}
    own: dict[str, list[float]] = {}
    for run in ours["runs"].values():
        own.setdefault(str(sorted((k, v) for k, v in run.items() if k != "beta")), []).append(run["beta"])
    assert list(own.values()) == [[0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0]] * 6
    whole = [{key: run[key] for key in run if key != "snapshot_epochs"} for run in other["runs"].values()]
    assert sum(run in whole for run in ours["runs"].values()) == 6 * 4
    fixed = [claim["measure"]["budgets"] for claim in study["claims"] if claim.get("level") == "budgets"]
    assert fixed == [[0.75, 3.0]] * 6


def test_adaptive_is_the_default_with_three_trainings_of_each_method() -> None:
    """Alike but for the seed, so that the report takes them for one method; the first has the pipeline's."""
    default, preset = (read_yaml(ROOT / name) for name in ("params.yaml", "presets/adaptive.yaml"))
    default["tournament"]["max_prompts"] = preset["tournament"]["max_prompts"]  # pairs of runs grow with their square
    default["margins"] = {"source": "judge", "temperature": None}  # madpo needs some
    assert {key: default[key] for key in default if key != "runs"} == {
        key: preset[key] for key in preset if key != "runs"
    }
    seeds: dict[str, list[int | None]] = {}
    for run in preset["runs"].values():
        seeds.setdefault(str(sorted((k, v) for k, v in run.items() if k != "seed")), []).append(run.get("seed"))
    assert all(found == [None, 18, 19] for found in seeds.values())
    adaptive = {"epsilon_dpo", "dpo_norm", "alpha_dpo", "gamma_po", "amapo", "madpo", "apo", "wpo", "tdpo"}
    assert {run["method"] for run in preset["runs"].values()} == {"dpo", *adaptive}
    assert all(preset["runs"][name] == default["runs"][name] for name in ("dpo", "epsilon_dpo"))
    all_methods = list(read_yaml(ROOT / "presets/all-methods.yaml")["runs"].values())
    assert all({k: v for k, v in run.items() if k != "seed"} in all_methods for run in preset["runs"].values())


def test_noise_is_the_default_with_flipped_labels_and_what_corrects_for_them() -> None:
    """The rate is stated once: the corrections read it from the data, so that one value makes another level."""
    default, preset = (read_yaml(ROOT / name) for name in ("params.yaml", "presets/noise.yaml"))
    annotators = preset["fetch"].pop("annotators")
    assert annotators == [{"share": 1.0, "flip": 0.2}] and default["fetch"].pop("annotators") is None
    assert {key: default[key] for key in default if key != "runs"} == {
        key: preset[key] for key in preset if key != "runs"
    }
    assert all(preset["runs"][name] == default["runs"][name] for name in ("dpo", "epsilon_dpo"))
    corrected = {run["smoothing"]: run["flip_by"] for run in preset["runs"].values() if "smoothing" in run}
    assert corrected == dict.fromkeys(("conservative", "robust", "forward"), "annotator")
    assert not any("label_smoothing" in run for run in preset["runs"].values())


def test_hh_gemma_is_the_papers_grid() -> None:
    """Appendix B.2 and table 4 of the paper: four methods at four values of beta, batch 128; ε-DPO with the exact
    arithmetic and with the released code's."""
    params = load_file(ROOT / "presets" / "hh-gemma-2-2b.yaml")
    grid = {(run["method"], run.get("update"), run.get("step_precision"), run["beta"]) for run in params.runs.values()}
    methods = [("dpo", None, None), ("tr_dpo", "hard", None), ("tr_dpo", "soft", None)]
    methods += [("epsilon_dpo", None, precision) for precision in (None, "official_bf16")]
    assert grid == {(*method, beta) for method in methods for beta in (0.01, 0.05, 0.1, 0.5)}
    assert len(params.runs) == 20 and {run.get("epsilon") for run in params.runs.values()} == {None, 0.01}
    for block in (params.sft, params.align):
        assert block.batch_size == 128
    assert (params.sft.learning_rate, params.align.learning_rate) == (2.0e-5, 1.0e-6)


# Transcribed from the ε-DPO paper's table 3 and its release, from SimPO's release (arXiv 2405.14734) for SimPO and DPO,
# and for the other methods from what SimPO's comparison searched. What a source does not state is not here.
LLAMA, MISTRAL = "llama-3-8b", "mistral-7b"
MODELS: dict[str, dict[str, Any]] = {
    LLAMA: {
        "model": "meta-llama/Meta-Llama-3-8B-Instruct",
        "dataset": "princeton-nlp/llama3-ultrafeedback",
        "epsilon_dpo": 7.0e-7,
        "dpo": 7.0e-7,
        "simpo": 1.0e-6,
        "gamma_beta_ratio": 0.55,
        "stops": (["<|eot_id|>", "<|end_of_text|>"], [128009, 128001]),
    },
    MISTRAL: {
        "model": "mistralai/Mistral-7B-Instruct-v0.2",
        "dataset": "princeton-nlp/mistral-instruct-ultrafeedback",
        "epsilon_dpo": 3.0e-7,
        "dpo": 5.0e-7,
        "simpo": 5.0e-7,
        "gamma_beta_ratio": 0.1,
        "stops": (["</s>"], [2]),
    },
}
TABLE_1 = {
    "dpo",
    "rrhf",
    "slic_hf",
    "ipo",
    "cpo",
    "kto",
    "orpo",
    "r_dpo",
    "simpo",
    "epsilon_dpo",
}  # and SFT
TABLE_2 = {"dpo", "beta_dpo", "tr_dpo", "epsilon_dpo"}  # Llama-3 alone; TR-DPO by τ and by α
SEARCHED: dict[str, dict[str, tuple[float, ...]]] = {
    "rrhf": {"lam": (0.1, 0.5, 1.0, 10.0)},
    "slic_hf": {"delta": (0.1, 0.5, 1.0, 2.0), "lam": (0.1, 0.5, 1.0, 10.0)},
    "ipo": {"tau": (0.01, 0.1, 0.5, 1.0)},
    "cpo": {"beta": (0.01, 0.05, 0.1), "lam": (1.0,)},
    "kto": {"beta": (0.01, 0.05, 0.1)},
    "orpo": {"lam": (0.1, 0.5, 1.0, 2.0)},
    "r_dpo": {"beta": (0.01, 0.05, 0.1), "alpha": (0.05, 0.1, 0.5, 1.0)},
    "dpo": {"beta": (0.01,)},
    "epsilon_dpo": {"beta": (0.01,), "epsilon": (0.005, 0.01, 0.02)},
    "simpo": {"beta": (2.5,)},
    "beta_dpo": {"alpha": (0.6,), "rho": (0.2,), "momentum": (0.9,)},  # its code's example
    "tr_dpo": {"beta": (0.01,), "sync_steps": (128,)},  # the paper's, on HH
}


def ultrafeedback(name: str) -> ParamsFile:
    return load_file(ROOT / "presets" / f"ultrafeedback-{name}.yaml")


@pytest.mark.parametrize("name", [LLAMA, MISTRAL])
def test_ultrafeedback_is_the_papers_setting(name: str) -> None:
    stated, params = MODELS[name], ultrafeedback(name)
    align = params.align
    assert (params.base.path, params.fetch.path) == (stated["model"], stated["dataset"])
    assert (params.fetch.train_split, params.fetch.eval_split, params.fetch.max_train_pairs) == ("train", "test", None)
    assert params.sft is None, "the reference is the instruct model"
    assert align.batch_size == 128
    assert (align.num_train_epochs, align.max_steps) == (1.0, None)
    assert (align.lr_scheduler_type, align.warmup_ratio, align.weight_decay) == ("cosine", 0.1, 0.0)
    assert (align.bf16, align.gradient_checkpointing, align.lora) == (True, True, None)
    assert (params.tokens.max_prompt_length, params.tokens.max_length, params.seed) == (1800, 2048, 42)
    assert (params.sample.temperature, params.sample.logits.in_use()) == (1.0, {}), "the KL of Figure 3"
    assert [params.base.stop_token, *params.sample.stop.tokens] == stated["stops"][0]
    assert params.judge.path == "llm-blender/PairRM-hf"
    methods = {run["method"] for run in params.runs.values()}
    assert methods == TABLE_1 | (TABLE_2 if name == LLAMA else set())
    for run in params.runs.values():
        method = run["method"]
        for key, values in SEARCHED[method].items():
            assert run[key] in values, (method, key)
        rate = run.get("learning_rate", align.learning_rate)
        assert rate == stated.get(method, stated["dpo"] if method in TABLE_1 else align.learning_rate), method
    simpo = params.runs["simpo"]
    assert simpo["gamma"] == pytest.approx(simpo["beta"] * stated["gamma_beta_ratio"], abs=1e-12)


def test_figure_3_and_table_2_are_those_of_llama() -> None:
    runs = ultrafeedback(LLAMA).runs.values()
    followed = {run["epsilon"] for run in runs if run.get("snapshot_epochs") == 0.2}
    assert followed == {0.005, 0.01, 0.02}
    moving = {(run["update"], run.get("alpha")) for run in runs if run["method"] == "tr_dpo"}
    assert moving == {("hard", None), ("soft", 0.6)}
    assert "official_bf16" in {run.get("step_precision") for run in runs}
    [released] = [run for run in ultrafeedback(MISTRAL).runs.values() if run.get("step_precision") == "official_bf16"]
    assert released["epsilon"] == 0.01


def test_the_stop_tokens_are_simpos_ids() -> None:
    """128009 and 128001 of Llama-3, in its own tokenizer where it is present."""
    from fetch_real_models import DEFAULT_FOLDER
    from transformers import PreTrainedTokenizerFast

    folder = DEFAULT_FOLDER / "llama-3-tokenizer"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokens, ids = MODELS[LLAMA]["stops"]
    assert tokenizer.convert_tokens_to_ids(tokens) == ids
    assert ultrafeedback(LLAMA).base.pad_token in tokenizer.get_vocab()


def test_on_policy_is_simpos_generation() -> None:
    """To the prompts of train_prefs, five answers at .8, paired by PairRM. Top-p .95 and 4096 tokens are those of the
    script that was released for the later sets, which ArmoRM ranked; of PairRM's they are not stated."""
    params, offline = ultrafeedback(f"{LLAMA}-on-policy"), ultrafeedback(LLAMA)
    drawn = params.candidates
    assert drawn is not None and params.pairs.source == "on_policy"
    assert (params.fetch.path, params.fetch.train_split) == ("HuggingFaceH4/ultrafeedback_binarized", "train_prefs")
    assert (drawn.samples_per_prompt, drawn.temperature, drawn.max_new_tokens) == (5, 0.8, 4096)
    assert drawn.logits.in_use() == {"top_p": 0.95} and drawn.stop == offline.sample.stop
    assert (params.pairs.choose, params.pairs.min_margin, params.judge.path) == (
        "best_worst",
        0.0,
        "llm-blender/PairRM-hf",
    )
    assert params.align == offline.align and params.base == offline.base and params.sft is None
    assert all(run.items() <= offline.runs[name].items() for name, run in params.runs.items())


def test_smoke_is_the_default_and_less_of_it() -> None:
    default, smoke = (read_yaml(ROOT / name) for name in ("params.yaml", "presets/smoke.yaml"))
    del default["runs"], smoke["runs"]  # a run of one's own need not be in both
    less = {"fetch": ("train_pairs", "eval_share"), "judge": ("num_train_epochs",), "sft": ("num_train_epochs",)}
    for block, keys in (less | {"sample": ("max_new_tokens",)}).items():
        for key in keys:
            assert smoke[block].pop(key) < default[block].pop(key), key
    assert smoke == default


def test_lora_is_the_same_data_on_one_gpu_and_says_so() -> None:
    params, full = ultrafeedback(f"{MISTRAL}-lora"), ultrafeedback(MISTRAL)
    assert params.align.lora is not None and params.base.dtype == "bfloat16"
    assert (params.fetch, params.tokens, params.sample) == (full.fetch, full.tokens, full.sample)
    assert params.align.batch_size == 128
    for name, run in params.runs.items():
        rates = [run.get("learning_rate", params.align.learning_rate)]
        rates += [full.runs[name].get("learning_rate", full.align.learning_rate)]
        assert rates[0] == pytest.approx(10 * rates[1]), name
        assert run.items() - {("learning_rate", rates[0])} <= full.runs[name].items()


def test_smollm2_is_offline_and_small() -> None:
    params = ultrafeedback("smollm2")
    assert params.fetch.source == "dataset" and params.fetch.revision is params.base.revision is None
    assert params.judge.source == "trained" and params.sft is None
    assert params.align.max_steps <= 20 and params.sample.max_prompts <= 32


@pytest.mark.parametrize("file", FILES[-5:], ids=lambda file: file.name)
def test_a_large_preset_says_what_machine_it_needs(file: Path) -> None:
    text = file.read_text("utf-8")
    header = text[: text.index("\nseed:")]
    assert "# MACHINE: " in header and f"cp presets/{file.name} params.yaml" in header
    params = load_file(file)
    if params.align.lora is None and params.base.path.startswith(("meta-llama/", "mistralai/")):
        assert "eight GPUs of 80 GB" in header and "launchers/fsdp.yaml" in header
    if "0" * 40 in text:
        assert "SET THIS" in text and "set fetch.revision" in header
