"""What rows have in common: counted by SQL, and here once more by hand and by dictionaries."""

import random
from collections import Counter, defaultdict
from typing import Any

import pytest

from epsilon_dpo.data.contract.relations import LISTED, Kind, Relations, SharedAnswer, place
from epsilon_dpo.data.facts.rows import digest
from epsilon_dpo.pipeline.observability.errors import UserError

Row = dict[str, Any]


def row(name: str, prompt: str, chosen: str, rejected: str, **more: Any) -> Row:
    question, answers = {"role": "user", "content": prompt}, (chosen, rejected)
    sides = [[question, {"role": "assistant", "content": answer}] for answer in answers]
    return {"id": name, "chosen": sides[0], "rejected": sides[1], **more}


def relations(train: list[Row], held_out: list[Row] | None = None) -> Relations:
    """As the contract adds them: the evaluation split first."""
    found = Relations()
    found.add("eval", 1, held_out or [])
    found.add("train", 1, train[:2])
    found.add("train", 3, train[2:])
    found.finish()
    return found


def test_each_kind_by_hand() -> None:
    found = relations(
        [
            row("a", "p", "yes", "no"),
            row("b", "q", "yes", "no"),
            row("c", "p", "no", "yes"),
            row("d", "p\n", " yes\n", "no"),
            row("e", "p", "yes", "maybe"),
            row("f", "r", "", "never"),
        ],
        [row("g", "p", "yes", "no"), row("h", "s", "no", ""), row("i", "s", "equal", "equal")],
    )
    assert found.repeated_prompts() == Kind(2, 7, ["a", "c", "d", "e", "g", "h", "i"])
    assert found.identical_rows() == Kind(2, 2, ["d", "g"])
    assert found.contradicting_rows() == Kind(1, 4, ["a", "c", "d", "g"])
    yes = SharedAnswer(digest("yes"), prompts=2, chosen=5, rejected=1, place=place("train", 1))
    no = SharedAnswer(digest("no"), prompts=3, chosen=2, rejected=4, place=place("train", 1))
    assert found.answers_on_both_sides(5) == (2, [no, yes]), "of the most prompts first; empty answers are no answer"
    assert found.answers_of_several_prompts(1) == (2, [no])
    assert (found.rows("train"), found.rows("eval"), found.id_of("eval", 2)) == (6, 3, "h")
    assert found.prompts("eval").tolist()[1:] == [found.prompts("eval")[1]] * 2


def test_a_dialogue_that_goes_on_in_the_other_split_by_hand() -> None:
    """Training rows of an evaluation row's prompt are another finding's; a system turn is none of the dialogue."""

    def later(name: str, *prompt: str) -> Row:
        roles = {"s": "system", "a": "assistant"}
        turns = [{"role": roles.get(text[0], "user"), "content": text} for text in prompt]
        sides = {side: [*turns, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
        return {"id": name, **sides}

    train = [later("t", "p ", "a", "q"), row("u", "p", "yes", "no"), row("v", "r", "yes", "no")]
    train += [later("w", "s", "p", "a2", "q"), later("x", "q"), row("y", "z", "yes", "no")]
    held_out = [row("e", "p", "yes", "no"), later("f", "r", "a", "q"), later("g", "r", "a", "x")]
    assert relations(train, held_out).dialogues_in_both_splits() == Kind(2, 3, ["t", "v", "w"])


def test_an_answer_that_is_chosen_and_rejected_for_one_prompt_is_no_answer_to_several() -> None:
    found = relations([row("a", "p", "yes", "no"), row("b", "p", "no", "yes"), row("c", "q", "up", "no")])
    assert found.answers_on_both_sides(5)[0] == 1 and found.answers_of_several_prompts(5)[0] == 1


def test_no_rows_have_nothing_in_common() -> None:
    found = relations([])
    nothing = Kind(0, 0, [])
    assert found.repeated_prompts() == found.identical_rows() == found.contradicting_rows() == nothing
    assert found.dialogues_in_both_splits() == nothing
    assert found.answers_on_both_sides(5) == (0, []) and found.margins("train").size == 0


def test_an_id_names_one_row_of_a_split() -> None:
    relations([row("a", "p", "yes", "no")], [row("a", "q", "yes", "no")])
    with pytest.raises(UserError, match=r"^out/fetch/train\.jsonl, row 4: the id a occurs twice"):
        relations([row("a", "p", "1", "2"), row("b", "p", "1", "2"), row("c", "p", "1", "2"), row("a", "q", "3", "4")])


def test_margins_are_those_of_the_rows_that_have_one() -> None:
    rows = [row("a", "p", "1", "2", margin=-1.5), row("b", "p", "1", "2"), row("c", "p", "1", "2", margin=2)]
    assert sorted(relations(rows).margins("train").tolist()) == [-1.5, 2.0]


def test_random_rows_against_dictionaries() -> None:
    draw = random.Random(3)
    rows = [row(f"r{n}", *(draw.choice("pqrs"), draw.choice("abcde"), draw.choice("abcde"))) for n in range(70)]
    keys = [(one["chosen"][0]["content"], *(one[s][1]["content"] for s in ("chosen", "rejected"))) for one in rows]
    found, seen = relations(rows[:50], rows[50:]), Counter(keys)
    copies = [one["id"] for n, one in enumerate(rows) if keys[n] in keys[:n]]
    assert found.identical_rows() == Kind(len(copies), len(copies), copies[:LISTED])
    pairs = {(p, *sorted((c, r))) for p, c, r in seen if c != r and (p, r, c) in seen}
    both_ways = [one for one, (p, c, r) in zip(rows, keys, strict=True) if (p, *sorted((c, r))) in pairs and c != r]
    contradicting = found.contradicting_rows()
    assert (contradicting.count, contradicting.rows) == (len(pairs), len(both_ways)) and len(pairs) > 3
    prompts: dict[str, set[str]] = defaultdict(set)
    for p, c, r in keys:
        prompts[c].add(p)
        prompts[r].add(p)
    assert found.answers_of_several_prompts(0)[0] == sum(len(of) > 1 for of in prompts.values())
