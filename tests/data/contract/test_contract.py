"""The data contract: a crafted row for each expectation, and what `drop` and `stop` do with it."""

import gc
import os
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
import pytest
from contract_of_lists import validate, write_rows
from contract_rows import NO, SYSTEM, TOKENS, YES, MakeTokenizer, Row, contract, dialogues, good, row, sides, turns
from tokenizers import normalizers

from epsilon_dpo.data.contract.contract import metrics, validate_files
from epsilon_dpo.data.contract.defects import Defects
from epsilon_dpo.data.contract.expectations import AFTER_TOKENISATION, BEFORE_TOKENISATION, split_expectations
from epsilon_dpo.data.contract.gx import evaluate, evaluate_column
from epsilon_dpo.data.contract.ledger import Ledger
from epsilon_dpo.data.contract.page import page
from epsilon_dpo.data.contract.params import RowExpectations, Validate
from epsilon_dpo.data.contract.relations import Relations
from epsilon_dpo.data.facts.rows import dialogue_facts, special_tokens, split_prompt
from epsilon_dpo.data.pairs.on_policy_contract import fit_to_train_on
from epsilon_dpo.data.sources.hh import read_hh
from epsilon_dpo.data.sources.params import HHSource
from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import JsonlFile
from epsilon_dpo.pipeline.stage.params import read_yaml

ROOT = Path(__file__).resolve().parents[3]
REAL_HH = os.environ.get("EPSILON_DPO_HH_FOLDER")  # a copy of Anthropic/hh-rlhf
REAL_MODELS = Path(os.environ.get("EPSILON_DPO_REAL_MODELS") or Path.home() / ".cache" / "epsilon-dpo")
# Without anything between the turns, a token can span the border of prompt and answer.
NO_BORDER = (
    "{{ bos_token }}{% for m in messages %}{{ m.content }}"
    "{% if m.role == 'assistant' %}<end_of_turn>{% endif %}{% endfor %}"
)
LONG = "the whale " * 40
TWO_USERS = [{"role": "user", "content": "What?"}, *turns("Whale?")]
# (the expectation it fails, the row, what the reason must say)
BAD_ROWS: list[tuple[str, Row, str]] = [
    ("sides_not_empty", row("What?", chosen=" \n"), "no text in chosen turn 2 (assistant)"),
    ("sides_not_empty", row("What?", rejected=""), "no text in rejected turn 2 (assistant)"),
    ("sides_not_empty", row(""), "no text in chosen turn 1 (user), rejected turn 1 (user)"),
    ("sides_differ", row("What?", "No.", "No."), "both answers are the same text of 3 characters"),
    ("same_prompt", sides(turns("What?", "Yes."), turns("Why?", "No.")), "the turns before the answer differ"),
    (
        "same_prompt",
        sides(turns("What?", "Yes."), turns("What?", "Yes.", "Why?", "No.")),
        "the turns before the answer",
    ),
    ("roles_alternate", sides(TWO_USERS + YES, TWO_USERS + NO), "turn 2 of chosen is by user, expected assistant"),
    (
        "roles_alternate",
        sides(turns("What?", "No.", "A"), turns("What?", "No.", "B")),
        "chosen does not end with an answer of the assistant (3 turns)",
    ),
    ("roles_alternate", sides(SYSTEM + YES, SYSTEM + NO), "turn 1 of chosen is by system, expected user"),
    ("no_special_tokens_in_text", row("What <end_of_turn> now?"), "the text contains <end_of_turn>"),
    ("no_special_tokens_in_text", row("What?", rejected="No.<eos>"), "the text contains <eos>"),
    ("splits_share_no_prompt", row("What is a whale? eval 1."), "its prompt is that of eval/1 in the evaluation split"),
    (
        "splits_share_no_prompt",
        row(" What is a whale? eval 1.\n"),
        "its prompt is that of eval/1 in the evaluation split",
    ),
    (
        "splits_share_no_near_prompt",
        row("what is a whale - eval 1"),
        "its prompt shares 100% of the trigrams with that of eval/1",
    ),
    ("prompt_fits", row("What is a whale? " * 20), "tokens, tokens.max_prompt_length is 40"),
    (
        "sides_differ_after_truncation",
        row("What?", LONG + "yes", LONG + "no"),
        "the same ids up to tokens.max_length = 60",
    ),
    ("same_prompt", sides(turns("What?", "Yes."), turns("What?\n", "No.")), "the turns before the answer differ"),
    ("sides_not_empty", row("What?", rejected="\u200b \ufeff\u3164"), "no text in rejected turn 2 (assistant)"),
]


@pytest.mark.parametrize(("name", "bad", "reason"), BAD_ROWS)
def test_a_bad_row_is_dropped_for_its_own_reason_alone(
    make_tokenizer: MakeTokenizer, name: str, bad: Row, reason: str
) -> None:
    outcome = validate(dialogues(bad), make_tokenizer(), TOKENS, contract())
    assert [(entry["split"], entry["id"], entry["expectation"]) for entry in outcome.dropped] == [
        ("train", "bad", name)
    ]
    assert reason in outcome.dropped[0]["reason"]
    assert [pair["id"] for pair in outcome.pairs["train"]] == [f"train/{n}" for n in range(4)]
    assert [pair["id"] for pair in outcome.pairs["eval"]] == [f"eval/{n}" for n in range(3)]
    assert outcome.result["splits"]["train"] == {"rows": 5, "kept": 4, "dropped": 1, "truncated_answers": 0}
    failed = [(f["split"], f["expectation"]) for f in outcome.result["expectations"] if not f["success"]]
    assert failed == [("train", name)]


@pytest.mark.parametrize(("name", "bad", "reason"), [BAD_ROWS[0], *BAD_ROWS[3:5], BAD_ROWS[6], *BAD_ROWS[9:]])
def test_a_bad_row_stops_where_that_is_asked(make_tokenizer: MakeTokenizer, name: str, bad: Row, reason: str) -> None:
    with pytest.raises(UserError) as stop:
        validate(dialogues(bad), make_tokenizer(), TOKENS, contract(on_failure={name: "stop"}))
    sentence = str(stop.value)
    assert sentence.startswith(f"1 of 5 rows of the split train fail {name} (") and ": bad; " in sentence
    assert reason in sentence and f"set validate.on_failure.{name}: drop in params.yaml" in sentence


@pytest.mark.parametrize("action", ["drop", "stop"])
def test_an_evaluation_prompt_that_only_its_token_ids_show_is_found(make_tokenizer: MakeTokenizer, action: str) -> None:
    """As Qwen's tokenizers write text: é as one character and as e with its accent are two texts and the same ids."""
    tokenizer, name = make_tokenizer(), "splits_share_no_prompt"
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    rows = dialogues(row("Cafe\u0301?"))
    rows["eval"].append(row("Caf\u00e9?") | {"id": "eval/3"})
    if action == "stop":
        with pytest.raises(UserError, match=rf"^1 of 5 rows of the split train fail {name} \(.*: bad; in the first, "):
            validate(rows, tokenizer, TOKENS, contract(on_failure={name: "stop"}))
        return
    outcome = validate(rows, tokenizer, TOKENS, contract())
    reason = "its prompt has the token ids of that of eval/3 in the evaluation split"
    assert outcome.dropped == [{"split": "train", "id": "bad", "expectation": name, "reason": reason}]
    assert len(outcome.pairs["eval"]) == 4, "the evaluation row stays"
    (found,) = (f for f in outcome.result["expectations"] if (f["split"], f["expectation"]) == ("train", name))
    assert (found["success"], found["evaluated"], found["unexpected"], found["first_ids"]) == (False, 5, 1, ["bad"])
    assert len(validate(rows, make_tokenizer(), TOKENS, contract()).pairs["train"]) == 5, "to this one they differ"


def test_a_row_near_an_evaluation_prompt_is_kept_and_named_where_it_is_only_reported(
    make_tokenizer: MakeTokenizer,
) -> None:
    """As every preset asks: a person has to look."""
    near = "splits_share_no_near_prompt"
    rows = dialogues(row("what is a whale - eval 1"))
    outcome = validate(rows, make_tokenizer(), TOKENS, contract(on_failure={near: "report"}))
    assert outcome.dropped == [] and [pair["id"] for pair in outcome.pairs["train"]][-1] == "bad"
    assert outcome.result["splits"]["train"] == {"rows": 5, "kept": 5, "dropped": 0, "truncated_answers": 0}
    finding = next(f for f in outcome.result["expectations"] if (f["split"], f["expectation"]) == ("train", near))
    assert (finding["on_failure"], finding["success"], finding["first_ids"]) == ("report", False, ["bad"])
    assert metrics(outcome.result)[near] == 1.0


@pytest.mark.parametrize("answer", ["\U0001f469\u200d\U0001f4bb", "\u0915\u094d", "\u200f\u05db\u05df", "?"])
def test_what_is_read_is_text_whatever_stands_beside_it(answer: str) -> None:
    """An emoji of two, joined; a letter with its mark; a word with its direction."""
    assert dialogue_facts(row("What?", answer), [], {})["empty_turns"] == ""


def test_an_empty_split_is_said_once(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(UserError) as error:
        validate({**dialogues(), "eval": []}, make_tokenizer(), TOKENS, contract())
    assert str(error.value).count("is broken by the split eval") == 1
    assert "validate.min_eval_pairs is broken by the split eval: it keeps 0 rows" in str(error.value)


@pytest.mark.parametrize("answers", [("on.", "No."), ("No.", "on.")], ids=["chosen", "rejected"])
def test_a_row_with_a_token_across_the_border_is_dropped(
    make_tokenizer: MakeTokenizer, answers: tuple[str, str]
) -> None:
    """Of the dataset's pairs, and of those that a policy wrote."""
    tokenizer, bad = make_tokenizer(chat_template=NO_BORDER), row("Tell me about the Mo", *answers)
    outcome = validate(dialogues(bad), tokenizer, TOKENS, contract())
    assert [(entry["id"], entry["expectation"]) for entry in outcome.dropped] == [("bad", "prompt_ids_are_prefix")]
    pairs = [split_prompt(good("train", 1)), split_prompt(bad)]
    fit, left_out, _ = fit_to_train_on(tokenizer, pairs, TOKENS)
    assert fit == pairs[:1] and left_out == [{"id": "bad", "reason": "prompt_ids_are_prefix"}]


def test_an_answer_of_a_policy_that_spells_a_special_token_is_left_out(make_tokenizer: MakeTokenizer) -> None:
    """On either side; <start_of_turn> breaks no other expectation."""
    spelt = {"chosen": ("Yes.<start_of_turn>", "No."), "rejected": ("Yes.", "No.<start_of_turn>")}
    pairs = [split_prompt(good("train", 1))]
    pairs += [split_prompt(row("What?", *answers) | {"id": side}) for side, answers in spelt.items()]
    fit, left_out, _ = fit_to_train_on(make_tokenizer(), pairs, TOKENS)
    assert fit == pairs[:1]
    assert left_out == [{"id": side, "reason": "no_special_tokens_in_text"} for side in spelt]


def test_a_row_that_fails_several_expectations_lists_them_all(make_tokenizer: MakeTokenizer) -> None:
    bad = sides(turns("What?", ""), turns("Why <bos>?", "") + turns(""))
    outcome = validate(dialogues(bad), make_tokenizer(), TOKENS, contract())
    names = [entry["expectation"] for entry in outcome.dropped if entry["id"] == "bad"]
    assert names == ["sides_not_empty", "sides_differ", "same_prompt", "roles_alternate", "no_special_tokens_in_text"]
    assert outcome.result["splits"]["train"]["dropped"] == 1, "a row is counted once"


def test_an_evaluation_prompt_on_the_rejected_side_alone_is_found_too(make_tokenizer: MakeTokenizer) -> None:
    bad = sides(turns("What?", "Yes."), turns("What is a whale? eval 1.", "No."))
    outcome = validate(dialogues(bad), make_tokenizer(), TOKENS, contract())
    assert [entry["expectation"] for entry in outcome.dropped] == ["same_prompt", "splits_share_no_prompt"]


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (
            {"min_train_pairs": 5},
            r"validate\.min_train_pairs is broken by the split train: it keeps 4 rows, fewer than 5",
        ),
        ({"min_eval_pairs": 4}, r"validate\.min_eval_pairs is broken by the split eval: it keeps 3 rows, fewer than 4"),
        ({"max_dropped_share": 0.19}, r"split train: 1 \(20\.00%\) of its 5 rows are dropped, more than 19\.00%"),
        ({"max_truncated_share": 0.1}, r"split train: 1 \(12\.50%\) of its 8 answers are cut .*, more than 10\.00%"),
    ],
)
def test_a_split_outside_its_limits_stops(make_tokenizer: MakeTokenizer, limits: Row, sentence: str) -> None:
    """Four good rows, one of them with one of its two answers cut, and one row to drop."""
    rows = dialogues(row("What?", "", "No."))
    rows["train"][3]["chosen"][-1]["content"] = LONG
    assert len(validate(rows, make_tokenizer(), TOKENS, contract()).pairs["train"]) == 4
    with pytest.raises(UserError, match=sentence):
        validate(rows, make_tokenizer(), TOKENS, contract(**limits))


@pytest.mark.parametrize(
    ("limit", "some", "of", "sentence"),
    [
        (0.1, 3001, 30_000, "3,001 (10.003%) of its 30,000 rows are dropped, more than 10.00%"),
        (0.1, 300, 2999, "300 (10.003%) of its 2,999 rows are dropped, more than 10.00%"),
        (0.1, 400_004, 4_000_000, "400,004 (10.0001%) of its 4,000,000 rows are dropped, more than 10.00%"),
        (0.00125, 14, 10_000, "14 (0.14%) of its 10,000 rows are dropped, more than 0.125%"),
        (0.29, 30, 100, "30 (30.00%) of its 100 rows are dropped, more than 29.00%"),
        (1 / 3, 34, 100, "34 (34.00%) of its 100 rows are dropped, more than 33.33333333333333%"),
        (0.0, 1, 300_000, "1 (0.0003%) of its 300,000 rows are dropped, more than 0.00%"),
    ],
)
def test_a_share_just_above_its_limit_reads_as_more(limit: float, some: int, of: int, sentence: str) -> None:
    _, dropped, _ = split_expectations("train", contract(max_dropped_share=limit), 160)
    assert dropped.sentence(some / of, of) == sentence


def test_too_many_dropped_rows_are_told_by_expectation_and_example(make_tokenizer: MakeTokenizer) -> None:
    """Nothing is left of the rows then, so the sentence must say which they were and why."""
    long = [row("What is a whale? " * 20) | {"id": f"long/{n}"} for n in range(3)]
    rows = dialogues(row("What?", "No.", "No."), *long)
    with pytest.raises(UserError) as stop:
        validate(rows, make_tokenizer(), TOKENS, contract(max_dropped_share=0.1))
    assert re.fullmatch(
        r"validate\.max_dropped_share is broken by the split train: 4 \(50\.00%\) of its 8 rows are dropped, more than "
        r"10\.00%; fix the most frequent cause, or raise validate\.max_dropped_share in params\.yaml\. Of the 8 rows "
        r"of the split train 3 fail prompt_fits \(the first, long/0: the prompt has \d+ tokens, "
        r"tokens\.max_prompt_length is 40\), 1 fail sides_differ \(the first: bad\); for prompt_fits, raise "
        r"tokens\.max_prompt_length\.",
        str(stop.value),
    )
    with pytest.raises(UserError, match=r"keeps 4 rows, fewer than 5; fetch .* 3 fail prompt_fits \(the first, long"):
        validate(dialogues(*long), make_tokenizer(), TOKENS, contract(min_train_pairs=5))


def test_what_the_page_says_of_few_rows_of_ones_own() -> None:
    """docs/howto.md names each limit of a split, and quotes what 500 rows are told under the default's."""
    page = (ROOT / "docs/howto.md").read_text("utf-8").split("\n## Your own data\n")[1].split("\n## ")[0]
    assert all(f"`{name}`" in page for name in Validate.model_fields if name != "on_failure")
    params = read_yaml(ROOT / "presets/smoke.yaml")  # the limits of the default, which are yours to edit
    ledger = Ledger(Tokens(**params["tokens"]), Validate(**params["validate"]), lambda split, rows: None)
    for split, rows in (("train", 450), ("eval", 50)):
        ledger.judge_split(split, np.zeros(rows), np.zeros(rows), 160)
    with pytest.raises(UserError) as stop:
        ledger.stop_if_broken()
    assert f"ERROR in stage validate: {stop.value}" in re.sub(r"\s+", " ", page)


def test_the_length_that_is_advised_cuts_few_enough_answers(make_tokenizer: MakeTokenizer) -> None:
    rows = dialogues()
    for number, pair in enumerate(rows["train"]):
        pair["chosen"][-1]["content"] = "the whale " * (20 + 10 * number)
    with pytest.raises(UserError, match=r"raise tokens\.max_length to \d+ or more, or validate\.max_trunc") as stop:
        validate(rows, make_tokenizer(), TOKENS, contract(max_truncated_share=0.2))
    advised = int(re.findall(r"max_length to (\d+)", str(stop.value))[0])
    for length, kept in ((advised - 1, False), (advised, True)):
        tokens = Tokens(max_prompt_length=40, max_length=length)
        with nullcontext() if kept else pytest.raises(UserError, match=r"2 \(25\.00%\) of its 8 answers are cut"):
            validate(rows, make_tokenizer(), tokens, contract(max_truncated_share=0.2))


def test_a_split_that_loses_every_row_stops(make_tokenizer: MakeTokenizer) -> None:
    rows = dialogues() | {"eval": [row("What?", "", "No.")]}
    with pytest.raises(UserError, match="the split eval: it keeps 0 rows, fewer than 1"):
        validate(rows, make_tokenizer(), TOKENS, contract(max_dropped_share=1.0))


def test_what_the_dataset_says_of_a_pair_goes_on(make_tokenizer: MakeTokenizer) -> None:
    beside = {"margin": 1.5, "source": "mine", "flip_rate": 0.25}
    ends_here = {"annotator": 1, "clean": False}
    told = {**row("What?"), **beside, **ends_here}
    kept = validate(dialogues(told), make_tokenizer(), TOKENS, contract()).pairs["train"]
    assert {name: kept[-1][name] for name in beside} == beside and set(kept[0]).isdisjoint(beside)
    assert set(kept[-1]).isdisjoint(ends_here)
    for rate in (0.5, -0.1):
        with pytest.raises(UserError, match="flip_rate is not what it should be"):
            validate(dialogues({**row("What?"), "flip_rate": rate}), make_tokenizer(), TOKENS, contract())


def test_duplicated_prompts_are_named_and_kept(make_tokenizer: MakeTokenizer) -> None:
    outcome = validate(dialogues(good("train", 2) | {"id": "again"}), make_tokenizer(), TOKENS, contract())
    assert len(outcome.pairs["train"]) == 5 and outcome.dropped == []
    finding = next(f for f in outcome.result["expectations"] if f["expectation"] == "prompts_unique")
    assert (finding["on_failure"], finding["unexpected"], finding["first_ids"]) == ("report", 2, ["train/2", "again"])
    named = next(d for d in outcome.result["defects"] if d["name"] == "duplicated_prompts")
    assert (named["count"], named["rows"], named["ids"]) == (1, 2, ["train/2", "again"])


def test_identical_and_contradicting_rows_are_counted_and_listed(make_tokenizer: MakeTokenizer) -> None:
    """80 rows, of which 20 come again with the answers swapped and 20 others twice more."""
    first = [good("train", n) | row(f"Question {n}?", f"Box {n}.", f"Tree {n}.") for n in range(80)]
    first = [pair | {"id": f"train/{n}"} for n, pair in enumerate(first)]
    swapped = [
        {"id": f"swapped/{n}", "chosen": p["rejected"], "rejected": p["chosen"]} for n, p in enumerate(first[:20])
    ]
    again = [pair | {"id": f"again/{n}"} for n, pair in enumerate(first[20:40] * 2)]
    splits = {"train": [*first, *swapped, *again], "eval": dialogues()["eval"]}
    outcome = validate(splits, make_tokenizer(), TOKENS, contract())
    found = {defect["name"]: (defect["count"], defect["rows"], defect["ids"]) for defect in outcome.result["defects"]}
    assert found["identical_rows"] == (40, 40, [f"again/{n}" for n in range(20)])
    pair_by_pair = [f"{name}/{n}" for n in range(10) for name in ("train", "swapped")]
    assert found["contradicting_rows"] == (20, 40, pair_by_pair)
    assert found["duplicated_prompts"][:2] == (40, 100)
    assert outcome.dropped == [] and len(outcome.pairs["train"]) == 140, "counted, never dropped for it"
    logged = metrics(outcome.result)
    assert (logged["identical_rows"], logged["contradicting_rows"], logged["train/rows"]) == (40.0, 20.0, 140.0)
    html = page(outcome.result, outcome.dropped, {"source": "hh"})
    assert "rows that repeat an earlier row" in html and "again/0, again/1" in html
    assert html.index("again/0, again/1") < html.index("Looked for and not found: ")  # what is there comes first
    assert not re.search(r"<th(?! scope=)[ >]|<h2>", html)


def many_rows() -> dict[str, list[Row]]:
    """A row for each expectation among good ones: what is broken stands in several chunks of five."""
    bad = [row_ | {"id": f"bad/{n}"} for n, (_, row_, _) in enumerate(BAD_ROWS)]
    rows = [good("train", n % 30) | {"id": f"train/{n}"} for n in range(60)]
    for place, one in enumerate(bad):
        rows.insert(4 * place, one)
    return {"train": rows, "eval": [good("eval", n) for n in range(7)]}


@pytest.mark.slow
@pytest.mark.parametrize("size", [5, None, pytest.param(1, marks=pytest.mark.campaign)])
def test_chunks_do_not_change_what_is_found(
    make_tokenizer: MakeTokenizer, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    at_once = validate(many_rows(), make_tokenizer(), TOKENS, contract())
    assert {entry["expectation"] for entry in at_once.dropped} == {name for name, _, _ in BAD_ROWS}
    monkeypatch.setattr("epsilon_dpo.data.contract.contract.CHUNK", size or len(many_rows()["train"]))
    assert validate(many_rows(), make_tokenizer(), TOKENS, contract()) == at_once
    with pytest.raises(UserError) as stop:
        validate(many_rows(), make_tokenizer(), TOKENS, contract(on_failure={"sides_differ": "stop"}))
    monkeypatch.undo()
    with pytest.raises(UserError) as stop_at_once:
        validate(many_rows(), make_tokenizer(), TOKENS, contract(on_failure={"sides_differ": "stop"}))
    assert str(stop.value) == str(stop_at_once.value)


class Watched(dict[str, Any]):
    """A row that counts how many of its kind exist."""

    alive = most = 0

    def __init__(self, content: Row) -> None:
        super().__init__(content)
        Watched.alive += 1
        Watched.most = max(Watched.most, Watched.alive)

    def __del__(self) -> None:
        Watched.alive -= 1


class WatchedFile(JsonlFile):
    """A file whose rows are counted as they are read."""

    def __iter__(self) -> Iterator[Row]:
        return (Watched(one) for one in super().__iter__())


def test_no_more_than_a_chunk_of_rows_is_in_memory(
    make_tokenizer: MakeTokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("epsilon_dpo.data.contract.contract.CHUNK", 10)
    monkeypatch.setattr("epsilon_dpo.data.contract.contract.JsonlFile", WatchedFile)
    write_rows(
        tmp_path, {split: [good(split, n) for n in range(rows)] for split, rows in (("train", 95), ("eval", 25))}
    )
    (tmp_path / "out").mkdir()
    result = validate_files(tmp_path, make_tokenizer(), TOKENS, contract(), tmp_path / "out")
    assert result["splits"]["train"]["kept"] == 95 and Watched.alive == 0
    assert 10 <= Watched.most <= 20, "the chunk that is read replaces the one before it"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"id": "x", "chosen": turns("a", "b")}, r"out/fetch/train\.jsonl, row 5: rejected is not"),
        (
            {"id": "x", "chosen": [{"role": "user", "content": True}], "rejected": turns("a", "b")},
            r"row 5: chosen\.0\.content is not what it should be",
        ),
        (good("train", 1), "row 5: the id train/1 occurs twice"),
        (good("train", 9) | {"margin": float("nan")}, "row 5: margin is not what it should be"),
        (good("train", 9) | {"margin": "1.5"}, "row 5: margin is not what it should be"),
    ],
)
def test_what_is_not_a_pair_of_dialogues_is_named(make_tokenizer: MakeTokenizer, bad: Row, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(dialogues(bad), make_tokenizer(), TOKENS, contract())


def test_every_expectation_of_the_params_is_evaluated_on_both_splits(make_tokenizer: MakeTokenizer) -> None:
    names = [e.name for e in BEFORE_TOKENISATION + AFTER_TOKENISATION if not e.again]
    assert set(names) == set(RowExpectations.model_fields) and len(names) == 13
    outcome = validate(dialogues(), make_tokenizer(), TOKENS, contract())
    for split, rows in (("train", 4), ("eval", 3)):
        found = {f["expectation"]: f["evaluated"] for f in outcome.result["expectations"] if f["split"] == split}
        whole = {f"min_{split}_pairs", "max_dropped_share", "max_truncated_share"}
        assert found == dict.fromkeys([*names, "prompts_unique", *whole], rows)


def test_a_table_that_cannot_be_judged_is_no_success() -> None:
    """Great Expectations skips nulls and reports errors as results: both would pass unseen."""
    expectation = BEFORE_TOKENISATION[1].build(TOKENS)
    with pytest.raises(RuntimeError, match="Nulls in"):
        evaluate([{"id": "a", "same_answer": None}], ["id", "same_answer"], {"sides_differ": expectation})
    with pytest.raises(RuntimeError, match="could not be evaluated"):
        evaluate([{"id": "a"}], ["id"], {"sides_differ": expectation})


def test_tables_follow_one_another_and_none_is_kept() -> None:
    """A split of many chunks would stay in memory, and each chunk be judged by what the one before it was."""
    within = gxe.ExpectColumnValuesToBeBetween(column="of_this_test", max_value=2)
    for values, failing in (([1, 2, 3], [2]), ([1, 2], []), ([5, 6], [0, 1])):
        assert evaluate_column("of_this_test", np.array(values), within).ids == failing
    gc.collect()
    tables = [one for one in gc.get_objects() if isinstance(one, pd.DataFrame)]
    assert not any("of_this_test" in table.columns for table in tables)


def test_the_page_stands_alone_and_escapes_what_it_shows(make_tokenizer: MakeTokenizer) -> None:
    bad = row("What?", "", "No.") | {"id": "<script>alert(1)</script>"}
    outcome = validate(dialogues(bad), make_tokenizer(), TOKENS, contract())
    dataset = {"source": "hh", "files": {"a": "b"}, "subsets": ["harmless-base", "helpful-base"]}
    html = page(outcome.result, outcome.dropped, dataset)
    assert "&lt;script&gt;alert(1)" in html and "<script" not in html
    assert "no text in chosen turn 2 (assistant)" in html and "harmless-base, helpful-base" in html
    text = " ".join(html.split())
    assert "4 training and 3 evaluation pairs are kept." in text and "handed on, 1 were dropped, each listed" in text
    assert '<td class="n">1 (20.00 %)</td>' in text, "of the five rows, not of the four that are kept"
    for foreign in ("http:", "https:", "src=", "@import"):
        assert foreign not in html


def test_the_page_says_what_fetch_has_dropped_before(make_tokenizer: MakeTokenizer) -> None:
    outcome = validate(dialogues(), make_tokenizer(), TOKENS, contract())
    lost = " (it dropped 1,203: tied 1,201, null 2; <code>out/fetch/dropped.jsonl</code>)"
    cases: list[tuple[Row, str]] = [({"dropped": {"null": 2, "tied": 1201}}, lost), ({"dropped": {}}, ""), ({}, "")]
    for facts, said in cases:
        html = " ".join(page(outcome.result, [], facts).split())
        assert f"Of the rows that <code>fetch</code> handed on{said}, none was dropped." in html


def test_defects_of_rows_are_counted_over_both_splits_and_the_first_named() -> None:
    """One defect of more rows than an entry names."""
    train = [row("What?", chosen=" \n") | {"id": f"empty/{n}"} for n in range(25)]
    train += [sides(turns("A", "B", "C", ""), turns("A", "B", "C", "D")) | {"id": "later turn"}]
    held_out = [
        row("What?", rejected="") | {"id": "rejected"},
        sides(turns("A", "B"), turns("C", "D")) | {"id": "another prompt"},
        sides(turns("A", "B"), turns("A", "B", "C", "D")) | {"id": "goes on"},
        sides(turns("A", "B"), turns("A") + turns("C", "D")) | {"id": "rejected twice"},
        sides(TWO_USERS + YES, TWO_USERS + NO) | {"id": "both twice"},
    ]
    defects, relations = Defects(), Relations()
    for split, part in (("train", train), ("eval", held_out)):
        defects.add(split, part)
        relations.add(split, 1, part)
    relations.finish()
    found = {one["name"]: (one["count"], one["rows"], one["ids"]) for one in defects.entries(relations)}
    first = [f"empty/{n}" for n in range(20)]
    assert found["empty_chosen_single_turn"] == (25, 25, first) and found["empty_chosen"] == (26, 26, first)
    assert found["empty_rejected"] == (1, 1, ["rejected"])
    assert found["rejected_leaves_chosen_prompt"] == (1, 1, ["another prompt"])
    assert found["prompts_differ"] == (3, 3, ["another prompt", "goes on", "rejected twice"])
    assert found["repeated_role_chosen"] == (1, 1, ["both twice"])
    assert found["repeated_role_either"] == (2, 2, ["rejected twice", "both twice"])


def real_hh() -> dict[str, list[Row]]:
    if not REAL_HH:
        pytest.skip("set EPSILON_DPO_HH_FOLDER to a folder with harmless-base/test.jsonl.gz")
    settings = {"source": "hh", "repo": None, "revision": None, "folder": REAL_HH, "subsets": ["harmless-base"]}
    limits = {"eval_share": 0.3, "max_train_pairs": None, "max_eval_pairs": None}
    dataset = read_hh(HHSource(**settings, train_split="test", eval_split="test", **limits), 17)  # type: ignore[arg-type]
    return {"train": dataset.train, "eval": dataset.eval}


def test_the_known_defects_of_harmless_base_are_found() -> None:
    """The test split at its published revision; the first number of each kind is the one usually quoted."""
    rows = real_hh()
    assert len(rows["train"]) + len(rows["eval"]) == 2312
    defects, relations = Defects(), Relations()
    for split, part in rows.items():
        defects.add(split, part)
        relations.add(split, 1, part)
    relations.finish()
    found = defects.entries(relations)
    assert {entry["name"]: entry["count"] for entry in found} == {
        "empty_chosen_single_turn": 3,
        "empty_chosen": 4,
        "empty_rejected": 0,
        "rejected_leaves_chosen_prompt": 4,
        "prompts_differ": 5,
        "repeated_role_chosen": 8,
        "repeated_role_either": 9,
        "duplicated_prompts": 2,
        "identical_rows": 0,
        "contradicting_rows": 0,
        "dialogues_in_both_splits": 0,
    }
    ids = {entry["name"]: sorted(int(one.rsplit("/", 1)[1]) for one in entry["ids"]) for entry in found}
    assert ids["empty_chosen_single_turn"] == [516, 925, 1103]
    assert ids["rejected_leaves_chosen_prompt"] == [1254, 1688, 1952, 2036]
    assert ids["duplicated_prompts"] == [250, 1262, 1452, 1483]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma-2-tokenizer", "SmolLM2-135M-Instruct"])
def test_harmless_base_keeps_the_contract_on_a_real_tokenizer(name: str) -> None:
    if not (REAL_MODELS / name / "tokenizer.json").is_file():
        pytest.skip(f"{REAL_MODELS / name} is absent; run python tests/fetch_real_models.py")
    tokenizer = load_tokenizer(REAL_MODELS / name)
    if name == "gemma-2-tokenizer":
        tokenizer.eos_token = "<end_of_turn>"  # as stage base sets it
    hard = {"one_bos": "stop", "prompt_ids_are_prefix": "stop", "stop_token_ends_answer": "stop"}
    outcome = validate(real_hh(), tokenizer, Tokens(max_prompt_length=256, max_length=512), contract(on_failure=hard))
    dropped = {entry["expectation"] for entry in outcome.dropped}
    near = "splits_share_no_near_prompt"
    assert dropped == {"sides_not_empty", "same_prompt", "roles_alternate", "prompt_fits", near}
    assert sum(entry["expectation"] == near for entry in outcome.dropped) == 1
    assert outcome.result["splits"]["train"]["kept"] > 1200


def test_special_tokens_are_those_that_end_or_begin_something(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    specials = special_tokens(tokenizer)
    assert specials == sorted(["<bos>", "<end_of_turn>", "<eos>", "<pad>", "<start_of_turn>", "<unk>"])
    facts = dialogue_facts(row("What <bos> and <eos>? <b>"), specials, {})
    assert facts["special_tokens_in_text"] == "<bos>, <eos>"
    tokenizer.backend_tokenizer.add_special_tokens(["<|header|>"])  # of a template alone, as Llama 3's
    tokenizer.backend_tokenizer.add_tokens(["\n\n"])  # one token of the vocabulary, as Gemma's
    assert special_tokens(tokenizer) == sorted([*specials, "<|header|>"])
