import json
import math
from pathlib import Path

import pytest

from epsilon_dpo.analysis.intervals.win_rates import win_rate
from epsilon_dpo.data.generated.truth import PROMPTS, TOPICS, true_reward
from epsilon_dpo.data.prompts.prompt_ids import prompt_id
from epsilon_dpo.judging.judges.interface import Question, Verdict
from epsilon_dpo.judging.scoring.agreement import agreement
from epsilon_dpo.judging.scoring.comparisons import (
    control_comparisons,
    label_comparisons,
    read_same_prompts,
    run_comparisons,
)
from epsilon_dpo.judging.scoring.intervals import Intervals
from epsilon_dpo.judging.scoring.scoring import (
    by_opponent,
    judge_comparisons,
    known_truth,
    label_accuracy,
    refuse_preference_among_equals,
    summary,
    win,
)
from epsilon_dpo.pipeline.observability.errors import UserError

QUESTION = next(iter(PROMPTS))
FACT, FALSE = TOPICS[PROMPTS[QUESTION]]


class LengthJudge:
    """Prefers the longer answer, and whatever is first by 0.25."""

    def compare(self, pairs: list[Question]) -> list[Verdict]:
        margins = [len(pair.a) - len(pair.b) for pair in pairs]
        return [
            Verdict(margin + 0.25, -margin + 0.25, len(pair.a.split()), len(pair.b.split()))
            for pair, margin in zip(pairs, margins, strict=True)
        ]


def sample_row(id_: str, response: str, chosen: str = FACT) -> dict:
    """A row of samples.jsonl; a system message makes its prompt its own."""
    prompt = [{"role": "system", "content": id_}, {"role": "user", "content": QUESTION}]
    found = {"id": id_, "row_id": id_, "prompt_id": prompt_id(prompt), "prompt": prompt, "chosen": chosen}
    return found | {"response": response, "finish_reason": "stop"}


INTERVALS = Intervals(0.95, 17)


def truth(prompt: list[dict[str, str]], text: str) -> float:
    return true_reward(prompt[-1]["content"], text)


RUN = [sample_row("0", f"Of course! {FACT}"), sample_row("1", FALSE), sample_row("2", FACT), sample_row("3", "")]
SFT = [sample_row("0", FACT), sample_row("1", FACT), sample_row("2", FACT), sample_row("3", FALSE)]


def test_a_run_s_records_and_rates_by_hand() -> None:
    records = judge_comparisons(LengthJudge(), run_comparisons(RUN, SFT), truth)
    assert [(record["opponent"], record["id"]) for record in records] == [
        (opponent, id_) for opponent in ("chosen", "sft") for id_ in "0123"
    ]
    first = records[0]
    assert first["f_ab"] == 11.25 and first["f_ba"] == -10.75 and first["logit"] == 22.0
    assert first["win"] == 1.0 and first["consistent"] and not first["identical"]
    assert (first["chars_a"], first["chars_b"]) == (len(FACT) + 11, len(FACT))
    assert (first["true_a"], first["true_b"], first["true_win"]) == (2.5, 1.5, 1.0)
    tie = records[2]
    assert tie["identical"] and tie["win"] == 0.5 and tie["true_win"] == 0.5 and not tie["consistent"]
    assert records[3]["empty_a"] and records[3]["win"] == 0.0
    longer = len(FALSE) - len(FACT)  # of the false claim: decides what a judge by length says of pair 1
    expected = 1.0 + win(float(longer)) + 0.5 + 0.0
    metrics = by_opponent(records, INTERVALS)
    assert metrics["win_rate/chosen"] == expected / 4 and metrics["win_rate/chosen_n"] == 4
    assert metrics["win_rate/chosen_low"] < expected / 4 < metrics["win_rate/chosen_high"]
    assert metrics["consistent_win_rate/chosen"] == expected / 4  # every decided pair is consistent here
    assert metrics["mean_judge_tokens/chosen"] == len(FACT.split())
    assert metrics["mean_chars/chosen"] == len(FACT) and metrics["mean_chars/sft"] == (3 * len(FACT) + len(FALSE)) / 4
    assert metrics["true_win_rate/chosen"] == (1.0 + 0.0 + 0.5 + 0.0) / 4
    assert metrics["true_win_rate/sft"] == (1.0 + 0.0 + 0.5 + 0.5) / 4  # an empty and a false answer are both worth -1
    assert metrics["truth_agreement/chosen"] == pytest.approx((1.0 + (1.0 - win(float(longer))) + 1.0) / 3)
    assert metrics["truth_agreement/chosen_n"] == 3 and metrics["truth_agreement/sft_n"] == 2
    assert metrics["position_bias/chosen"] == 0.25
    assert metrics["flip_rate/chosen"] == 0.0 and metrics["flip_rate/chosen_n"] == 3  # the pairs that differ
    assert metrics["tie_share/chosen"] == metrics["identical_share/chosen"] == 0.25
    assert metrics["consistency/chosen"] == 1.0 and metrics["consistency/chosen_n"] == 3
    assert metrics["true_reward/run"] == (2.5 - 1.0 + 1.5 - 1.0) / 4
    assert metrics["true_reward/sft"] == (1.5 * 3 - 1.0) / 4 and metrics["true_reward/chosen"] == 1.5
    assert metrics["empty_share/run"] == 0.25 and metrics["empty_share/sft"] == 0.0
    soft = sum(1 / (1 + math.exp(-record["logit"] / 2)) for record in records[:4]) / 4
    assert metrics["soft_win_rate/chosen"] == pytest.approx(soft)
    json.dumps(records, allow_nan=False)


def test_a_judge_of_single_answers_gives_each_policy_a_mean_score() -> None:
    class Scores(LengthJudge):
        def compare(self, pairs: list[Question]) -> list[Verdict]:
            return [
                Verdict(a - b, b - a, 1, 1, score_a=a, score_b=b)
                for a, b in ((float(len(pair.a)), float(len(pair.b))) for pair in pairs)
            ]

    found = by_opponent(judge_comparisons(Scores(), run_comparisons(RUN, SFT), truth), INTERVALS)
    expected = {name: sum(len(row[key]) for row in rows) / 4 for name, key, rows in (
        ("run", "response", RUN), ("sft", "response", SFT), ("chosen", "chosen", RUN)
    )}  # fmt: skip
    assert {name: found[f"judge_score/{name}"] for name in expected} == pytest.approx(expected)
    assert found["judge_score/run_low"] < found["judge_score/run"] < found["judge_score/run_high"]


@pytest.mark.parametrize("cut", ["trunc_source", "trunc_a", "trunc_b"])
def test_position_decides_only_what_it_outweighs(cut: str) -> None:
    record = {"win": 1.0, "logit": 0.2, "f_ab": 0.4, "f_ba": 0.2, "consistent": False, "identical": False}
    record |= {"tokens_a": 3, "tokens_b": 5, "finish_reason": "stop", "prompt_id": "one"}
    flags = dict.fromkeys(("trunc_source", "trunc_a", "trunc_b", "refused"), False)
    other = {"consistent": True, "prompt_id": "two"}
    found = summary([record | flags | {cut: True}, record | flags | other], INTERVALS)
    assert found["win_rate"] == 1.0 and found["consistent_win_rate"] == 0.75
    assert found["flip_rate"] == 1.0 and found["flip_rate_n"] == 2  # both orders prefer the first place
    assert found["consistency"] == 0.5 and found["position_bias"] == pytest.approx(0.3)
    assert found["truncated_share"] == 0.5 and "true_win_rate" not in found


def test_space_around_an_answer_is_none_of_it_and_two_refused_orders_do_not_agree() -> None:
    class Silent(LengthJudge):
        def compare(self, pairs: list[Question]) -> list[Verdict]:
            return [Verdict(0.0, 0.0, 1, 1, refused=True) for _ in pairs]

    rows = [sample_row("0", " same\n", chosen="same"), sample_row("1", "same", chosen=" same\n"), sample_row("2", " ")]
    first, second, third = judge_comparisons(Silent(), run_comparisons(rows, rows), None)[:3]
    assert first["identical"] and second["identical"] and not third["identical"]
    assert (first["chars_a"], second["chars_b"], third["chars_a"]) == (4, 4, 0)
    assert third["empty_a"] and not third["empty_b"] and not third["consistent"]


def test_a_judge_that_always_names_the_first_place_is_never_consistent() -> None:
    """As one that answers by a letter does: each such pair is a tie, so that no pair is decided."""

    class First(LengthJudge):
        def compare(self, pairs: list[Question]) -> list[Verdict]:
            return [Verdict(4.0, 4.0, 1, 1, refused=not pair.a) for pair in pairs]

    records = judge_comparisons(First(), run_comparisons(RUN, SFT), None)
    found = by_opponent(records, INTERVALS)
    assert found["tie_share/sft"] == 1.0 and found["flip_rate/sft"] == 1.0
    assert found["consistency/sft"] == 0.0 and found["consistency/sft_n"] == 2  # one pair is identical, one refused
    assert "consistency/sft" not in by_opponent([record | {"refused": True} for record in records], INTERVALS)


@pytest.mark.parametrize(("logit", "expected"), [(2e-6, 1.0), (1e-6, 0.5), (0.0, 0.5), (-1e-6, 0.5), (-2e-6, 0.0)])
def test_ties(logit: float, expected: float) -> None:
    assert win(logit) == expected


def test_controls_and_the_one_that_needs_no_truth() -> None:
    pairs = [{"id": row["id"], "rejected": [{"role": "assistant", "content": "It"}]} for row in [*SFT, {"id": "9"}]]
    records = judge_comparisons(LengthJudge(), control_comparisons(SFT, pairs, 17), None)
    refuse_preference_among_equals(records)
    metrics = by_opponent(records, INTERVALS)
    assert metrics["win_rate/chosen_vs_rejected"] == 1.0 and metrics["win_rate/chosen_vs_rejected_n"] == 4
    assert metrics["win_rate/chosen_vs_chosen"] == 0.5 and metrics["tie_share/chosen_vs_chosen"] == 1.0
    assert "win_rate/sft_vs_chosen" in metrics and "true_win_rate/sft_vs_chosen" not in metrics
    shuffled = [record for record in records if record["answer"] == "shuffled"]
    assert [record["id"] for record in shuffled] == [row["id"] for row in SFT]
    # Three of SFT's answers are the fact and one is false; each is beside its own prompt's fact, in another order.
    assert sorted(record["chars_a"] for record in shuffled) == sorted([len(FACT)] * 3 + [len(FALSE)])
    assert shuffled[3]["chars_a"] == len(FACT)  # the false claim answered row 3
    same = next(record for record in records if record["answer"] == record["opponent"] == "chosen")
    same["win"] = 1.0
    with pytest.raises(RuntimeError, match="prefers one of two identical answers"):
        refuse_preference_among_equals(records)
    with pytest.raises(UserError, match="row 0"):
        control_comparisons(SFT, pairs[1:], 17)


def test_label_accuracy_is_the_share_of_labels_that_the_judge_repeats() -> None:
    def pair(chosen: str, rejected: str) -> dict:
        sides = {"chosen": chosen, "rejected": rejected}
        messages = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
        prompt = [{"role": "system", "content": chosen}, {"role": "user", "content": QUESTION}]
        return {"id": chosen, "prompt": prompt, **messages}

    comparisons = label_comparisons([pair("long answer", "x"), pair("y", "longer"), pair("zz", "z"), pair("vvv", "v")])
    found = label_accuracy(judge_comparisons(LengthJudge(), comparisons, truth), INTERVALS)
    right = win_rate([1.0, 1.0, 1.0, 0.0], range(4), INTERVALS.confidence)
    assert {name: found[name] for name in right.named("accuracy")} == right.named("accuracy") and right.value == 0.75
    assert found["label_kappa"] == pytest.approx(0.5)  # which side is chosen is the label's verdict and no party
    assert found["true_win_rate"] == 0.5 and "truth_agreement" not in found  # four false sentences: nothing to decide
    assert not any(name.startswith("win_rate") for name in found)


def test_labels_are_agreed_with_beyond_chance() -> None:
    """Three of four labels are repeated, kappa 2 (3/4) - 1; the truth ties always, which by chance nobody meets."""
    rows = [
        record(f"p{n}", win, 0.5) | {"answer": "chosen", "opponent": "rejected"} for n, win in enumerate((1, 1, 0, 1))
    ]
    found = label_accuracy(rows, INTERVALS)
    assert found["label_kappa"] == pytest.approx(0.5) and found["label_kappa_n"] == 4
    direct = agreement([1, 1, 0, 1], [1] * 4, range(4), 0.95, 10_000, 17, sides_are_arbitrary=True)
    assert direct is not None and found.items() >= direct.named("label").items()
    assert found["label_alpha"] == pytest.approx(1.0 - 0.25 / (4 / 7))  # 4 pairs are 8 verdicts: 4 (4) / (8 (7) / 2)
    assert found["truth_kappa"] == 0.0 and found["truth_alpha"] < 0.0


def test_policies_are_parties_and_flips_are_counted_on_what_was_judged() -> None:
    """By the truth the run always wins: a judge that says so agrees by chance. Two pairs flip, one is refused."""
    rows = [record(f"p{n}", 1.0, 1.0) for n in range(4)]
    rows[0] |= {"f_ab": 2.0, "f_ba": 1.0}
    rows[1] |= {"f_ab": -2.0, "f_ba": -3.0}
    rows[2] |= {"f_ab": 0.0}  # a preference that the other order does not have is no flip
    rows[3] |= {"f_ab": 0.0, "f_ba": 0.0, "refused": True, "win": 0.5}
    found = by_opponent(rows, INTERVALS)
    assert found["flip_rate/sft"] == pytest.approx(2 / 3) and found["flip_rate/sft_n"] == 3
    assert found["refused_share/sft"] == 0.25 and found["identical_share/sft"] == 0.0
    assert found["truth_kappa/sft"] == 0.0 and "label_kappa/sft" not in found
    rows[3] |= {"win": 1.0}
    assert "truth_kappa/sft" not in by_opponent(rows, INTERVALS), "both say one and the same always"
    same = [row | {"identical": True} for row in rows]
    assert "flip_rate/sft" not in by_opponent(same, INTERVALS)


def record(prompt: str, win: float, true_win: float) -> dict:
    """Of a run against SFT, judged alike in both orders."""
    flags = dict.fromkeys(("trunc_source", "trunc_a", "trunc_b", "refused", "identical", "empty_a", "empty_b"), False)
    found = {"id": prompt, "prompt_id": prompt, "answer": "run", "opponent": "sft", "win": win, "true_win": true_win}
    found |= {"logit": 2.0 * win - 1.0, "f_ab": win - 0.5, "f_ba": 0.5 - win, "consistent": win != 0.5}
    found |= {"tokens_a": 3, "tokens_b": 5, "chars_a": 9, "chars_b": 9, "finish_reason": "stop"}
    return found | flags | {"true_a": true_win, "true_b": 0.5}


def test_different_prompts_are_one_sentence(tmp_path: Path) -> None:
    for name, ids in (("a", "01"), ("b", "01"), ("c", "10"), ("d", "0")):
        (tmp_path / name).write_text("".join(json.dumps({"id": id_}) + "\n" for id_ in ids))
    assert read_same_prompts(tmp_path / "a", tmp_path / "b") == ([{"id": "0"}, {"id": "1"}],) * 2
    for other in ("c", "d"):
        with pytest.raises(UserError, match="different prompts"):
            read_same_prompts(tmp_path / "a", tmp_path / other)


def test_truth_is_known_only_where_the_dataset_says_so(tmp_path: Path) -> None:
    file = tmp_path / "dataset.json"
    file.write_text('{"true_reward": false}')
    assert known_truth(file) is None
    file.write_text('{"true_reward": true}')
    found = known_truth(file)
    assert found is not None and found([{"role": "user", "content": QUESTION}], FACT) == 1.5


def test_several_samples_of_a_prompt_are_not_several_prompts() -> None:
    """30 prompts whose answers always win or always lose: four samples each leave the interval as wide as one."""

    def rows(samples: int) -> list[dict]:
        return [
            sample_row(f"{prompt}", f"Of course! {FACT}" if prompt % 3 else "") | {"id": f"{prompt}/{number}"}
            for prompt in range(30)
            for number in range(samples)
        ]

    one, four = (
        by_opponent(judge_comparisons(LengthJudge(), run_comparisons(rows(k), rows(k)), None), INTERVALS)
        for k in (1, 4)
    )
    assert one["win_rate/chosen"] == four["win_rate/chosen"] == pytest.approx(2 / 3)
    assert one["win_rate/chosen_n"] == four["win_rate/chosen_n"] == 30
    widths = [found["win_rate/chosen_high"] - found["win_rate/chosen_low"] for found in (one, four)]
    assert widths[1] == pytest.approx(widths[0], rel=0.2)


def test_length_is_taken_out_of_a_judge_that_sees_nothing_else() -> None:
    """The longer answer always wins; at equal length nothing is left to win by."""
    rows = [sample_row(str(n), "word " * (n % 11 + 1), chosen="word " * 6) for n in range(66)]
    metrics = by_opponent(judge_comparisons(LengthJudge(), run_comparisons(rows, rows), None), INTERVALS)
    assert metrics["win_rate/chosen"] == pytest.approx(0.5) and metrics["length_slope/chosen"] > 3
    assert metrics["similar_length_win_rate/chosen"] == 0.5 and metrics["similar_length_win_rate/chosen_n"] == 18
    longer = [sample_row(str(n), "word " * (n % 11 + 4), chosen="word " * 6) for n in range(66)]
    metrics = by_opponent(judge_comparisons(LengthJudge(), run_comparisons(longer, rows), None), INTERVALS)
    assert metrics["win_rate/chosen"] > 0.7 and metrics["lc_win_rate/chosen"] == pytest.approx(0.5, abs=0.15)


def test_cut_answers_are_also_left_out() -> None:
    rows = [
        sample_row(str(n), "long answer " * 9) | {"finish_reason": "length" if n < 5 else "stop"} for n in range(10)
    ]
    rows[7]["response"] = "x"
    reference = [row | {"response": "xx", "finish_reason": "length" if n > 7 else "stop"} for n, row in enumerate(rows)]
    metrics = by_opponent(judge_comparisons(LengthJudge(), run_comparisons(rows, reference), None), INTERVALS)
    for opponent in ("chosen", "sft"):  # whose own answers may be cut
        assert metrics[f"win_rate/{opponent}"] == 0.9 and metrics[f"untruncated_win_rate/{opponent}"] == 0.8
        assert metrics[f"untruncated_win_rate/{opponent}_n"] == 5
    for ended in ("stop", "length"):  # all of them
        alike = [row | {"finish_reason": ended} for row in rows]
        found = by_opponent(judge_comparisons(LengthJudge(), run_comparisons(alike, reference), None), INTERVALS)
        assert "untruncated_win_rate/sft" not in found
