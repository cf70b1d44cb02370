"""The stages fetch and base: outputs complete or absent, one sentence for the user, the same bytes twice."""

import gzip
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from transformers import BertConfig, BertLMHeadModel
from untracked import run_untracked

from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's code and params in an empty folder, `check` passed, no network."""
    for name in ("src", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("dvc.yaml", "params.yaml", "pins.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    (tmp_path / "out" / "check").mkdir(parents=True)
    (tmp_path / "out" / "check" / "passed.txt").write_text("params.yaml is valid\n")
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    run_untracked(monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path


def set_block(project: Path, block: str, config: dict[str, Any]) -> None:
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    params[block] = config
    yaml.dump(params, project / "params.yaml")


def run(stage: str) -> None:
    """`python -m stages.<stage>` in this process."""
    runpy.run_module(f"stages.{stage}", run_name="__main__")


def refused(project: Path, stage: str) -> str:
    """Run `stage`, which must end with one sentence and leave nothing; the sentence."""
    with pytest.raises(SystemExit) as end:
        run(stage)
    sentence = end.value.code
    assert isinstance(sentence, str), "python turns a text into exit code 1"
    assert sentence.startswith(f"ERROR in stage {stage}: ") and "\n" not in sentence
    assert not (project / "out" / stage).exists()
    assert not list((project / "out").glob(".*.partial"))
    return sentence


HH = {
    "source": "hh",
    "repo": None,
    "revision": None,
    "folder": "data/hh",
    "subsets": ["harmless-base"],
    "train_split": "test",
    "eval_split": "test",
    "eval_share": 0.5,
    "max_train_pairs": None,
    "max_eval_pairs": None,
}


def test_the_default_twice_gives_the_same_bytes(project: Path) -> None:
    digests = []
    for _ in range(2):
        for stage in ("fetch", "base"):
            run(stage)
        digests.append((digest(project / "out" / "fetch"), digest(project / "out" / "base")))
    assert digests[0] == digests[1]
    dataset = read_json(project / "out" / "fetch" / "dataset.json")
    rows = {split: len(read_jsonl(project / "out" / "fetch" / f"{split}.jsonl")) for split in ("train", "eval")}
    assert dataset["rows"] == rows
    assert {path.name for path in (project / "out" / "fetch").iterdir()} == {
        "train.jsonl",
        "eval.jsonl",
        "dataset.json",
    }
    assert sorted(path.name for path in (project / "out" / "base").iterdir()) == ["model", "tokenizer"]
    for file in project.glob("out/[fb]*/**/*.json*"):
        assert str(project) not in file.read_text("utf-8")


def test_hh_from_a_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_block(project, "fetch", HH)
    folder = project / "data" / "hh" / "harmless-base"
    folder.mkdir(parents=True)
    rows = [{side: f"\n\nHuman: {n}\n\nAssistant: {side}" for side in ("chosen", "rejected")} for n in range(4)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "test.jsonl.gz").write_bytes(gzip.compress(content))
    run("fetch")
    assert "2 training pairs, 2 evaluation pairs from hh" in capsys.readouterr().out

    (folder / "test.jsonl.gz").write_bytes(gzip.compress(content)[:-12])
    (project / "out" / "fetch").rename(project / "before")  # as DVC does before it runs a stage
    assert "data/hh/harmless-base/test.jsonl.gz is cut off or damaged" in refused(project, "fetch")


def test_own_data_with_what_was_dropped(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": str(n), "chosen": "a", "rejected": "b" if n else None} for n in range(20)]
    (project / "data" / "mine.json").write_text(json.dumps(rows), "utf-8")
    own = {"source": "dataset", "path": "data/mine.json", "revision": None, "name": None, "train_split": "train"}
    own |= {"eval_split": None, "eval_share": 0.3, "columns": None, "pairs": "best_worst", "min_margin": None}
    set_block(project, "fetch", {**own, "max_train_pairs": None, "max_eval_pairs": 2})
    run("fetch")
    assert "2 evaluation pairs from dataset, 1 rows dropped" in capsys.readouterr().out
    fetched = project / "out" / "fetch"
    assert {path.name for path in fetched.iterdir()} == {"train.jsonl", "eval.jsonl", "dropped.jsonl", "dataset.json"}
    assert read_jsonl(fetched / "dropped.jsonl") == [
        {"id": "mine/1", "split": "train", "reason": "null", "detail": "rejected is null"}
    ]
    assert read_json(fetched / "dataset.json")["dropped"] == {"null": 1}
    assert str(project) not in (fetched / "dataset.json").read_text("utf-8")
    assert not list((project / "scratch").glob("fetch-*")), "the rows' files of the reader are gone"
    first = digest(fetched)
    fetched.rename(project / "before")
    run("fetch")
    assert digest(fetched) == first


@pytest.mark.parametrize(
    ("stage", "changes", "sentence"),
    [
        ("fetch", {}, "The data folder data/hh does not exist; set fetch.folder in params.yaml"),
        ("fetch", {"folder": None, "repo": "Anthropic/hh-rlhf", "revision": "0" * 40}, "HF_HUB_OFFLINE forbids"),
        ("base", {}, "base.path = models/gemma is not a folder"),
        ("base", {"path": "google/gemma-2-2b", "revision": "0" * 40}, "HF_HUB_OFFLINE forbids"),
    ],
)
def test_a_failure_is_one_sentence_and_leaves_nothing(
    project: Path, stage: str, changes: dict[str, Any], sentence: str
) -> None:
    pretrained = {"source": "pretrained", "path": "models/gemma", "revision": None, "dtype": "float32"}
    pretrained |= {"chat_template": "gemma", "stop_token": "<end_of_turn>"}
    set_block(project, stage, {**(HH if stage == "fetch" else pretrained), **changes})
    if stage == "base":
        (project / "out" / "fetch").mkdir()  # its dependency; not read for a pretrained model
    assert sentence in refused(project, stage)


@pytest.fixture
def given(project: Path) -> Path:
    """The embedded model as a given one, which block `base` names."""
    for stage in ("fetch", "base"):
        run(stage)
    given = project / "given"
    (project / "out" / "base" / "model").rename(given)
    for file in (project / "out" / "base" / "tokenizer").iterdir():
        file.rename(given / file.name)
    (project / "out" / "base" / "tokenizer").rmdir()
    (project / "out" / "base").rmdir()
    pretrained = {"source": "pretrained", "path": "given", "revision": None, "dtype": "float32"}
    pretrained |= {"chat_template": "own", "stop_token": "<end_of_turn>"}
    set_block(project, "base", pretrained)
    return given


def test_a_head_that_align_would_refuse_is_refused_before_sft(project: Path, given: Path) -> None:
    """BERT's projects its hidden states twice."""
    (given / "model.safetensors").unlink()
    vocabulary = read_json(given / "config.json")["vocab_size"]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertLMHeadModel(BertConfig(vocab_size=vocabulary, is_decoder=True, **sizes)).save_pretrained(given)
    assert "the logits of BertLMHeadModel are not its last hidden states times" in refused(project, "base")


def test_what_is_to_be_said_of_a_models_template(
    project: Path, given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Noted at the end of the line, or refused with what to do."""
    run("base")
    assert "answers end with <end_of_turn>; its chat template has no system role\n" in capsys.readouterr().out

    template = given / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("{{- bos_token -}}", ""), "utf-8")
    (project / "out" / "base").rename(project / "before")
    assert "it writes no BOS (<bos>), which the tokenizer puts before every other text; set base.bos to prepend." in (
        refused(project, "base")
    )
