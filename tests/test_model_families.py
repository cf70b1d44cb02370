"""Each family of docs/models.md from the given model to sampled answers, all weights and LoRA, prompts shared."""

import json
from pathlib import Path
from typing import Any

import pytest
from contract_of_lists import validate
from model_families import FAMILIES, OWNERS, REAL, Family
from transformers import PreTrainedTokenizerFast

from epsilon_dpo.data.contract.params import Validate
from epsilon_dpo.data.pairs.pairs import write_pairs
from epsilon_dpo.data.pairs.params import DatasetPairs
from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.data.tokens.tokenisation import tokenise_sides
from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.models.base.model_folder import write_model
from epsilon_dpo.models.base.params import PretrainedModel
from epsilon_dpo.models.base.pretrained import load_pretrained
from epsilon_dpo.models.base.template import notes
from epsilon_dpo.models.policy.folder import load_policy
from epsilon_dpo.pipeline.stage.files import write_jsonl
from epsilon_dpo.pipeline.stage.manifest import is_adapter
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.sampling.answers import sampling
from epsilon_dpo.sampling.answers.params import Sampler
from epsilon_dpo.sampling.answers.sampling import answer
from epsilon_dpo.sampling.decoding.params import Stop
from epsilon_dpo.sampling.decoding.stops import Stops
from epsilon_dpo.training.alignment import alignment
from epsilon_dpo.training.alignment.alignment import align
from epsilon_dpo.training.alignment.params import Align
from epsilon_dpo.training.sft import sft
from epsilon_dpo.training.sft.params import SFT
from epsilon_dpo.training.sft.sft import fine_tune

ROOT = Path(__file__).resolve().parent.parent
PARAMS = read_yaml(ROOT / "params.yaml")
TOKENS = Tokens(max_prompt_length=64, max_length=96)
TWO_STEPS = {"max_steps": 2, "batch_size": 2, "micro_batch_size": 2}
LORA = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "target_modules": "all-linear", "quantise": None}


def dialogue(split: str, number: int) -> dict[str, Any]:
    user = {"role": "user", "content": f"Where does whale {number} of {split} live?\n\n  Say it kindly."}
    sides = {"chosen": f"It lives in sea {number}, gladly.", "rejected": "No.\nI don't know - not 日本."}
    return {"id": f"{split}/{number}"} | {
        side: [user, {"role": "assistant", "content": text}] for side, text in sides.items()
    }


def model_and_contract(family: Family, folder: Path) -> PreTrainedTokenizerFast:
    """Stages base and validate; the tokenizer that the later stages load."""
    family.write(folder / "given")
    settings = {"source": "pretrained", "path": str(folder / "given"), "revision": None, "dtype": "float32"}
    settings |= {"chat_template": "own", "stop_token": family.stop} | family.base
    model, tokenizer = load_pretrained(PretrainedModel(**settings))
    assert ", ".join(notes(tokenizer)) == family.notes
    write_model(model, tokenizer, folder / "base")
    rows = {split: [dialogue(split, n) for n in range(4)] for split in ("train", "eval")}
    contract = PARAMS["validate"] | {"min_train_pairs": 4, "min_eval_pairs": 4, "max_dropped_share": 0.0}
    saved = load_tokenizer(folder / "base" / "tokenizer")
    outcome = validate(rows, saved, TOKENS, Validate(**contract))
    assert outcome.dropped == []
    stops = Stops(saved, Stop(tokens=[], strings=[]))
    for side in ("chosen", "rejected"):  # a policy that writes what it was trained on is judged by the data's text
        text = rows["train"][0][side][-1]["content"]
        (sampled,) = tokenise_sides(saved, rows["train"][0][side][:1], [rows["train"][0][side][1:]])
        assert stops.text(sampled.completion_ids) == text
    (folder / "validate").mkdir()
    for split, pairs in outcome.pairs.items():
        write_jsonl(folder / "validate" / f"{split}.jsonl", pairs)
    (folder / "pairs").mkdir()
    write_pairs(DatasetPairs(source="dataset"), saved, TOKENS, folder / "validate", folder / "none", folder / "pairs")
    return saved


def trained(folder: Path, lora: dict[str, Any] | None) -> Path:
    """Stages sft and align, two steps each."""
    name = "lora" if lora else "full"
    tuned, aligned = folder / f"sft-{name}", folder / f"align-{name}"
    tuned.mkdir(), aligned.mkdir()
    fine_tune(
        SFT(**PARAMS["sft"] | TWO_STEPS | {"lora": lora}), TOKENS, 1, folder / "base", folder / "validate", tuned,
        folder / f"scratch-sft-{name}", lambda metrics, step: None, save_steps=2,
    )  # fmt: skip
    metrics = align(
        method_of("run", {"method": "epsilon_dpo", "beta": 0.1, "epsilon": 0.01}),
        Align(**PARAMS["align"] | TWO_STEPS | {"lora": lora, "share_prompt": True}),
        1, tuned / "model", folder / "pairs", aligned, folder / f"scratch-align-{name}", lambda metrics, step: None,
        save_steps=2,
    )  # fmt: skip
    assert metrics["steps"] == 2 and 0 < metrics["eval_loss"] < 1.4
    return aligned / "model"


USUAL = ("Gemma 2", "Llama 3", "Mistral", "Qwen 3")  # the others differ by their tokenizer or template alone


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in USUAL else pytest.param(name, marks=pytest.mark.campaign) for name in FAMILIES]
)
def test_a_family_from_the_given_model_to_answers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES[name]
    if not (REAL / family.tokenizer).is_dir():
        pytest.skip(f"{REAL / family.tokenizer} is absent; run python tests/fetch_real_models.py")
    tokenizer = model_and_contract(family, tmp_path)
    for module in (sft, alignment, sampling):  # a vocabulary of 256,000 takes seconds to load, each time
        monkeypatch.setattr(module, "load_tokenizer", lambda folder: tokenizer)
    of_block = {name: PARAMS["sample"][name] for name in Sampler.model_fields}
    sampler = Sampler(**of_block | {"max_new_tokens": 8, "batch_size": 4})
    rows = [json.loads(line) for line in (tmp_path / "validate" / "eval.jsonl").read_text().splitlines()]
    for lora in (None, LORA):
        policy = trained(tmp_path, lora)
        answers = answer(policy, rows, sampler, 1, 1, "policy")
        assert len(answers) == 4 and all(row["response_ids"] for row in answers)
        assert is_adapter(policy) == bool(lora)
        if lora is None:
            model = load_policy(policy)
            tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
            assert (
                tied
                == model.config.tie_word_embeddings
                == load_policy(tmp_path / "base/model").config.tie_word_embeddings
            )


def row(name: str, family: Family) -> str:
    """The family in the table of docs/models.md."""
    owner = OWNERS[family.tokenizer]
    tokenizer = "its own" if owner == name else f"{owner}'s"
    if family.special:
        tokenizer += f" and {len(family.special)} token{'s' * (len(family.special) > 1)} more"
    template = "its own" if family.template is None else "in its form"
    keys = ", ".join(f"`{key}: {value}`" for key, value in family.base.items())
    architecture = family.config.__name__.removesuffix("Config").removesuffix("Text")
    notes = family.notes.replace("<", "\\<")
    cells = [name, tokenizer, template, architecture, keys or "–", notes or "–", "yes", "yes"]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def test_the_table_of_the_docs_is_what_is_tried() -> None:
    page = (ROOT / "docs" / "models.md").read_text("utf-8")
    head, rule, *rows = page.split("<!-- families -->\n")[1].strip().splitlines()
    assert head.endswith("| all weights, `share_prompt` | LoRA, `share_prompt` |") and set(rule) <= set("|-")
    assert rows == [row(name, family) for name, family in FAMILIES.items()]
