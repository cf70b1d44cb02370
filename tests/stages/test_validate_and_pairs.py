"""The stages validate and pairs on files: outputs complete or absent, one sentence for a user, the same bytes twice."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from untracked import run_untracked

from epsilon_dpo.data.pairs import on_policy_contract
from epsilon_dpo.data.pairs.pairs import IN_WORDS
from epsilon_dpo.models.base.embedded import train_tokenizer
from epsilon_dpo.models.base.params import EmbeddedModel
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest

ROOT = Path(__file__).resolve().parents[2]
PARAMS = """
tokens: {max_prompt_length: 40, max_length: 60}
validate:
  on_failure: {sides_not_empty: drop, sides_differ: drop, same_prompt: drop, roles_alternate: drop,
    no_special_tokens_in_text: drop, splits_share_no_prompt: stop,
    splits_share_no_near_prompt: report, text_survives_template: stop, one_bos: stop, prompt_ids_are_prefix: stop,
    stop_token_ends_answer: stop, prompt_fits: drop, sides_differ_after_truncation: drop}
  max_dropped_share: 0.5
  max_truncated_share: 0.5
  min_train_pairs: 3
  min_eval_pairs: 2
pairs: {source: dataset}
"""


def row(split: str, number: int, prompt: str, chosen: str = "Good question!", rejected: str = "No.") -> dict[str, Any]:
    user = {"role": "user", "content": prompt}
    sides = {"chosen": chosen, "rejected": rejected}
    dialogue = {side: [user, {"role": "assistant", "content": text}] for side, text in sides.items()}
    return {"id": f"set/{split}/{number}", **dialogue}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's code in a folder of its own, with what fetch and base leave behind."""
    for name in ("src", "stages", "dvc.yaml", "pins.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "params.yaml").write_text(PARAMS, "utf-8")
    fetched = tmp_path / "out" / "fetch"
    fetched.mkdir(parents=True)
    training = [row("train", n, f"What is whale {n}?") for n in range(4)]
    write_jsonl(fetched / "train.jsonl", [*training, row("train", 4, "What <eos> is it?", chosen="")])
    write_jsonl(fetched / "eval.jsonl", [row("eval", n, f"Tell me about whale {n}.") for n in range(3)])
    write_json(fetched / "dataset.json", {"source": "hh", "true_reward": False})
    (tmp_path / "out" / "ranking").mkdir()
    write_jsonl(tmp_path / "out" / "ranking" / "ranked.jsonl", [])
    sizes = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.06}
    params = EmbeddedModel(source="embedded", max_position_embeddings=256, **sizes, **heads)  # type: ignore[arg-type]
    texts = ["user\n", "model\n", "Tell me about the whale.", "What is it?", "Good question!", "No."]
    train_tokenizer(texts * 20, params).save_pretrained(tmp_path / "out" / "base" / "tokenizer")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    run_untracked(monkeypatch)
    return tmp_path


def run(stage: str) -> None:
    """`python -m stages.<stage>` in this process."""
    runpy.run_module(f"stages.{stage}", run_name="__main__")


def test_texts_with_labels_go_on_to_the_judge_as_they_came(project: Path) -> None:
    rows = [{"id": "r/1", "text": "a fine film", "label": 1, "part": "classifier"}]
    write_jsonl(project / "out" / "fetch" / "labelled.jsonl", rows)
    run("validate")
    assert read_jsonl(project / "out" / "validate" / "labelled.jsonl") == rows


def test_kept_pairs_go_on_and_dropped_ones_are_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("validate")
    assert "4 train and 3 eval pairs kept, 1 rows dropped" in capsys.readouterr().out
    out = project / "out" / "validate"
    names = {"train.jsonl", "eval.jsonl", "dropped.jsonl", "dataset.json", "validation.json", "validation.html"}
    assert {path.name for path in out.iterdir()} == names
    assert read_jsonl(out / "train.jsonl")[0] == {
        "id": "set/train/0",
        "prompt": [{"role": "user", "content": "What is whale 0?"}],
        "chosen": [{"role": "assistant", "content": "Good question!"}],
        "rejected": [{"role": "assistant", "content": "No."}],
    }
    dropped = [(entry["id"], entry["expectation"]) for entry in read_jsonl(out / "dropped.jsonl")]
    assert dropped == [("set/train/4", "sides_not_empty"), ("set/train/4", "no_special_tokens_in_text")]
    assert read_json(out / "validation.json")["splits"]["train"]["dropped"] == 1

    run("pairs")
    assert capsys.readouterr().out.endswith("4 training pairs and 3 evaluation pairs of the dataset\n")
    counts = {"source": "dataset", "train": 4, "eval": 3, "left_out": {}}
    assert read_json(project / "out" / "pairs" / "pairs.json") == counts
    for split, count in (("train", 4), ("eval", 3)):
        rows = read_jsonl(project / "out" / "pairs" / f"{split}.jsonl")
        assert len(rows) == count
        assert all(set(row) == {"id", "prompt_ids", "chosen_ids", "rejected_ids"} for row in rows)
        assert all(row["prompt_ids"][0] == 2 and row["chosen_ids"][-1] == row["rejected_ids"][-1] == 5 for row in rows)


def test_what_is_said_of_a_pair_reaches_the_pairs(project: Path) -> None:
    fetched = project / "out" / "fetch" / "train.jsonl"
    beside = {"margin": 1.5, "source": "mine", "flip_rate": 0.25}
    write_jsonl(fetched, [{**read_jsonl(fetched)[0], **beside}, *read_jsonl(fetched)[1:]])
    run("validate")
    run("pairs")
    first, second = read_jsonl(project / "out" / "pairs" / "train.jsonl")[:2]
    assert {name: first[name] for name in beside} == beside and set(second).isdisjoint(beside)


def test_a_bad_dataset_stops_in_one_sentence_and_leaves_nothing(project: Path) -> None:
    shared = row("train", 9, "Tell me about whale 1.")
    fetched = project / "out" / "fetch" / "train.jsonl"
    write_jsonl(fetched, [*read_jsonl(fetched), shared])
    with pytest.raises(SystemExit) as end:
        run("validate")
    sentence = end.value.code
    assert isinstance(sentence, str), "python turns a text into exit code 1"
    assert sentence.startswith("ERROR in stage validate: 1 of 6 rows of the split train fail splits_share_no_prompt")
    assert "set/train/9" in sentence and "\n" not in sentence
    assert not (project / "out" / "validate").exists() and not list((project / "out").glob(".*.partial"))


def set_on_policy(project: Path, choose: str, ranked: list[dict[str, Any]]) -> None:
    """On-policy pairs of answers that a judge has scored, to one of the training prompts."""
    on_policy = f"pairs: {{source: on_policy, choose: {choose}, min_margin: 0.5}}"
    (project / "params.yaml").write_text(PARAMS.replace("pairs: {source: dataset}", on_policy), "utf-8")
    prompt = [{"role": "user", "content": "What is whale 1?"}]
    rows = [{"id": f"set/train/{n}", "prompt": prompt, **row} for n, row in enumerate(ranked)]
    write_jsonl(project / "out" / "ranking" / "ranked.jsonl", rows)


def test_on_policy_pairs_replace_the_training_pairs_alone(project: Path) -> None:
    """Three ranked answers to one prompt: the best against the worst; evaluation stays the dataset's."""
    answers = ["No.", "Good", "Good question!"]
    close, far = [{"answers": answers, "scores": scores} for scores in ([0.1, 0.2, 0.3], [-1.0, 0.0, 2.0])]
    set_on_policy(project, "best_worst", [close, far])
    run("validate")
    run("pairs")
    pairs = read_jsonl(project / "out" / "pairs" / "train.jsonl")
    assert [pair["id"] for pair in pairs] == ["set/train/1/2-0"]
    texts = read_jsonl(project / "out" / "pairs" / "train_text.jsonl")
    assert texts[0]["chosen"][0]["content"] == "Good question!" and texts[0]["chosen_score"] == 2.0
    assert len(read_jsonl(project / "out" / "pairs" / "eval.jsonl")) == 3
    set_on_policy(project, "best_worst", [close])
    with pytest.raises(SystemExit, match=r"gives a pair \(left out: 1 closer than pairs\.min_margin\); lower pairs"):
        run("pairs")


def test_where_no_pair_is_left_the_remedy_is_that_of_the_most_frequent_reason(project: Path) -> None:
    run("validate")
    two, long = ["Good", "No."], "No. " * 60
    tied, close = ({"answers": two, "scores": scores} for scores in ([1.0, 1.0], [0.1, 0.2]))
    refused = {"answers": two, "scores": [None, None]}
    cut = {"answers": [long + "Good", long + "What"], "scores": [0.0, 1.0]}
    spelt = {"answers": ["Good<end_of_turn>", "No."], "scores": [1.0, 0.0]}
    for ranked, remedy in (
        ([], r"\(left out: none\); raise candidates\.temperature, or candidates\.max_new_tokens"),
        ([tied, tied, close], r"; raise candidates\.temperature\.$"),
        ([tied, close, close], r"; lower pairs\.min_margin = 0\.5\.$"),
        ([refused, tied], "; take another judge"),
        ([cut], r"; raise tokens\.max_length\.$"),
        ([spelt], "; see no_special_tokens_in_text in out/validate/validation.html"),
    ):
        set_on_policy(project, "best_worst", ranked)
        with pytest.raises(SystemExit, match=remedy):
            run("pairs")


def test_each_reason_to_leave_out_a_pair_is_told_in_words() -> None:
    facts = {"lost_text": "", "bos_errors": 0, "continues_prompt": True, "ends_with_stop": True}
    faults = {"lost_text": "x", "bos_errors": 1, "continues_prompt": False, "ends_with_stop": False}
    facts, faults = facts | {"same_answer_ids": False}, faults | {"same_answer_ids": True}
    pair = {side: [{"role": "assistant", "content": f"{side}</s>"}] for side in ("chosen", "rejected")}
    broken = {on_policy_contract._broken(pair, [], facts | {name: fault}) for name, fault in faults.items()}
    spelt = on_policy_contract._broken(pair, ["</s>"], facts)
    assert {*broken, spelt, "tied", "below_min_margin", "refused"} == set(IN_WORDS)


def test_on_policy_pairs_that_teach_nothing_are_left_out_and_counted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tied, equal once cut at tokens.max_length, spelling the end of a turn: none reaches the training pairs."""
    long = "No. " * 60
    tied = {"answers": ["Good", "No."], "scores": [1.0, 1.0]}
    cut = {"answers": [long + "Good", long + "What"], "scores": [0.0, 1.0]}
    spelt = {"answers": ["Good<end_of_turn>", "No."], "scores": [1.0, 0.0]}
    good = {"answers": ["Good", "No.", "What", "Good question!"], "scores": [3.0, 2.0, 1.0, 0.0]}
    half = {"answers": ["Good", long + "Good"], "scores": [1.0, 0.0]}  # one of its answers is cut
    set_on_policy(project, "all", [tied, cut, spelt, good, half])
    run("validate")
    run("pairs")
    out = project / "out" / "pairs"
    assert read_jsonl(out / "dropped.jsonl") == [
        {"id": "set/train/0/0-1", "reason": "tied"},
        {"id": "set/train/1/1-0", "reason": "sides_differ_after_truncation"},
        {"id": "set/train/2/0-1", "reason": "no_special_tokens_in_text"},
    ]
    pairs = read_jsonl(out / "train.jsonl")
    of_four = ["0-1", "0-2", "0-3", "1-2", "1-3", "2-3"]
    assert [pair["id"].removeprefix("set/train/") for pair in pairs] == [*(f"3/{pair}" for pair in of_four), "4/0-1"]
    assert [pair["id"] for pair in read_jsonl(out / "train_text.jsonl")] == [pair["id"] for pair in pairs]
    left_out = {"tied": 1, "sides_differ_after_truncation": 1, "no_special_tokens_in_text": 1}
    counts = {"source": "on_policy", "train": 7, "eval": 3, "left_out": left_out, "cut_answers": 1}
    assert read_json(out / "pairs.json") == counts
    said = capsys.readouterr().out
    assert said.endswith(
        "7 training pairs of the reference's answers and 3 evaluation pairs of the dataset; left out: 1 with equal "
        "scores, 1 equal up to tokens.max_length, 1 with the text of a special token\n"
    )


@pytest.mark.slow
@pytest.mark.campaign  # test_on_policy_pipeline.py runs every stage twice, and compares the bytes
def test_two_processes_write_the_same_bytes(project: Path) -> None:
    """With other hash seeds and in another minute: no set order, no time, no random id of Great Expectations."""
    digests = []
    for seed in ("1", "2"):
        code = (
            "import runpy, epsilon_dpo.pipeline.stage.execution, contextlib\n"
            "class Quiet(contextlib.nullcontext):\n"
            "    __init__ = lambda self, *_: super().__init__(self)\n"
            "    log_metrics = lambda self, *_, **__: None\n"
            "epsilon_dpo.pipeline.stage.execution.Tracker = Quiet\n"
            "for name in ('validate', 'pairs'): runpy.run_module(f'stages.{name}', run_name='__main__')\n"
        )
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
        digests.append([digest(project / "out" / stage) for stage in ("validate", "pairs")])
    assert digests[0] == digests[1]
    text = (project / "out" / "validate" / "validation.json").read_text("utf-8")
    assert str(project) not in text
