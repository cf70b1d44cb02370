"""Lengths, their bias, scripts, margins and shared answers: numbers that a reader can redo by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from contract_of_lists import validate

from epsilon_dpo.data.contract.contract import metrics
from epsilon_dpo.data.contract.page import page
from epsilon_dpo.data.contract.params import RowExpectations, Validate
from epsilon_dpo.data.contract.profile import EXAMPLES, SHOWN_CHARS, Lengths, Scripts, main_script
from epsilon_dpo.data.tokens.params import Tokens

Row = dict[str, Any]
LIMITS: dict[str, Any] = dict(max_dropped_share=0.5, max_truncated_share=1.0, min_train_pairs=1, min_eval_pairs=1)


def fact(prompt: int, chosen: int, rejected: int, cut: int = 0) -> Row:
    return {"prompt_tokens": prompt, "chosen_tokens": chosen, "rejected_tokens": rejected, "cut_answers": cut}


def row(name: str, prompt: str, chosen: str, rejected: str, **more: Any) -> Row:
    question, answers = {"role": "user", "content": prompt}, (chosen, rejected)
    sides = [[question, {"role": "assistant", "content": answer}] for answer in answers]
    return {"id": name, "chosen": sides[0], "rejected": sides[1], **more}


def test_percentiles_of_counts_are_those_of_the_values() -> None:
    draw = np.random.default_rng(0)
    values = draw.integers(1, 90, (101, 3)).tolist()
    lengths = Lengths()
    lengths.add("train", [fact(*three) for three in values[:40]])
    lengths.add("train", [fact(*three) for three in values[40:]])
    chosen = np.array(values)[:, 1]
    spread = lengths.spread("train")["chosen_tokens"]
    assert spread["p90"] == round(float(np.percentile(chosen, 90)), 2) and spread["max"] == chosen.max()
    assert spread["mean"] == round(float(chosen.mean()), 2)


def test_the_longer_answer_and_what_is_cut() -> None:
    lengths = Lengths()
    lengths.add("train", [fact(5, 9, 3, 1), fact(5, 2, 4), fact(5, 8, 2, 2), fact(5, 3, 3)])
    assert lengths.bias("train") == {
        "pairs": 4,
        "chosen_longer": 2,
        "same_length": 1,
        "rejected_longer": 1,
        "chosen_longer_share": 0.6667,
        "mean_difference": 2.5,
    }
    assert lengths.cut_answers("train") == 3 and lengths.truncated_share("train").tolist() == [0.0, 0.0, 0.5, 1.0]
    assert lengths.bias("eval")["chosen_longer_share"] == 0.5


def test_the_length_that_is_advised_cuts_as_many_answers_as_are_allowed() -> None:
    """Of answers of 1 to 100 tokens; 29 of 100 are 0.29, though 0.29 * 100 is 28.999999999999996."""
    lengths = Lengths()
    lengths.add("train", [fact(0, 2 * n + 1, 2 * n + 2) for n in range(50)])
    assert [lengths.fitting("train", share) for share in (0.0, 0.289, 0.29, 0.3)] == [100, 72, 71, 70]
    assert lengths.fitting("eval", 0.29) == 0


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Plain text.", "LATIN"),
        ("Größe und Maß", "LATIN"),
        ("Привет, world", "CYRILLIC"),
        ("你好 okay", "LATIN"),
        ("你好吗", "CJK"),
        ("こんにちは", "HIRAGANA"),
        ("12 + 3 = ?", "none"),
        ("→ 12", "none"),
        ("", "none"),
    ],
)
def test_a_text_has_the_script_of_most_letters(text: str, script: str) -> None:
    assert main_script(text) == script


def test_answers_in_another_script_than_their_prompt_are_counted() -> None:
    scripts = Scripts()
    scripts.add(
        "train", [row("a", "What?", "Привет", "No"), row("b", "What?", "Yes", "12"), row("c", "5?", "да", "No")]
    )
    assert scripts.summary("train") == {
        "prompt": {"LATIN": 2, "none": 1},
        "chosen": {"CYRILLIC": 2, "LATIN": 1},
        "rejected": {"LATIN": 2, "none": 1},
        "other_than_prompt": {"chosen": 1, "rejected": 0},
    }
    assert list(scripts.summary("train")["chosen"]) == ["CYRILLIC", "LATIN"], "the most frequent first"


@pytest.fixture
def outcome(make_tokenizer: Callable[..., Any]) -> Any:
    refusal = "I cannot help with <that>. " + "No. " * 60
    train = [row(f"train/{n}", f"Question {n}?", "Yes.", refusal, margin=n - 1.0) for n in range(4)]
    train += [row(f"train/{n}", f"Question {n}?", refusal, f"No {n}.") for n in range(4, 8)]
    contract = Validate(on_failure=RowExpectations(**dict.fromkeys(RowExpectations.model_fields, "drop")), **LIMITS)  # type: ignore[arg-type]
    held_out = [row("eval/0", "Well?", "Yes.", "No.")]
    tokens = Tokens(max_prompt_length=40, max_length=60)
    return validate({"train": train, "eval": held_out}, make_tokenizer(), tokens, contract)


def test_shared_answers_are_shown_with_their_text(outcome: Any) -> None:
    shared = outcome.result["shared_answers"]
    assert shared["on_both_sides"]["count"] == 1 and shared["of_several_prompts"]["count"] == 2
    refusal, yes = shared["of_several_prompts"]["examples"]
    assert (refusal["prompts"], refusal["chosen"], refusal["rejected"]) == (8, 4, 4)
    assert refusal["text"].startswith("I cannot help with <that>. No.") and len(refusal["text"]) <= SHOWN_CHARS + 1
    assert yes == {"text": "Yes.", "prompts": 5, "chosen": 5, "rejected": 0}
    assert len(shared["on_both_sides"]["examples"]) == 1 <= EXAMPLES


def test_margins_that_contradict_their_label_are_counted(outcome: Any) -> None:
    spread = {"min": -1.0, "p10": -0.7, "median": 0.5, "p90": 1.7, "p99": 1.97, "max": 2.0, "mean": 0.5}
    shares = {"negative_share": 0.25, "zero_share": 0.25}
    assert outcome.result["margins"] == {"train": {"rows": 4, "negative": 1, "zero": 1, **shares, "spread": spread}}
    assert metrics(outcome.result)["train/negative_margins"] == 0.25


def test_of_the_longer_answers_the_share_is_logged(outcome: Any) -> None:
    """Of eight pairs the chosen answer is the longer one in four, and in the others the rejected one."""
    assert metrics(outcome.result)["train/chosen_longer"] == 0.5


def test_the_page_says_it_all(outcome: Any) -> None:
    """Of the two answers of each of the eight training pairs, one is cut: half of all answers."""
    assert outcome.result["splits"]["train"] == {"rows": 8, "kept": 8, "dropped": 0, "truncated_answers": 8}
    html = page(outcome.result, outcome.dropped, {"source": "hh"})
    assert '<td class="n">8 (50.00 %)</td>' in " ".join(html.split())
    for said in ("I cannot help with &lt;that&gt;", "1 (25.00 %)", "50.0 %", "latin 8", "0 chosen, 0 rejected"):
        assert said in html, said
