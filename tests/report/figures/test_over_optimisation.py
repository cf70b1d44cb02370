"""Over-optimisation by hand: policies against the reference's answers, and the best of n without bias."""

from itertools import combinations
from pathlib import Path

import pytest

from epsilon_dpo.pipeline.stage.files import read_json, write_json, write_jsonl
from epsilon_dpo.report.figures.over_optimisation import best_of_n_weights, over_optimisation
from epsilon_dpo.report.figures.params import FiguresView
from epsilon_dpo.report.figures.write import write_figures

# Score and true reward of four answers of the reference to two prompts: what scores highest is the worst.
REFERENCE = {
    "p0": [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, -2.0)],
    "p1": [(0.5, 0.0), (0.0, 1.0), (4.0, 0.5), (1.0, 2.0)],
}


def record(prompt: str, opponent: str, a: tuple[float, float], b: tuple[float, float] = (0.0, 0.0)) -> dict:
    (score_a, true_a), (score_b, true_b) = a, b
    found = {"prompt_id": prompt, "answer": "sft" if opponent == "chosen" else "run", "opponent": opponent, "win": 1.0}
    return found | {"score_a": score_a, "score_b": score_b, "true_a": true_a, "true_b": true_b}


@pytest.fixture
def scored(out: Path) -> Path:
    controls = [record(prompt, "chosen", answer) for prompt, answers in REFERENCE.items() for answer in answers]
    write_jsonl(out / "controls/records.jsonl", controls)
    for place in ("dpo_01", "dpo_05", "mine", "mine/snapshots/000002"):
        early = "snapshots" in place  # it has moved half as far, scores 2 less, and is better by 2
        own = [
            record(f"p{i}", "sft", (5.0 + i - 2 * early, 2.0 * early - 1.0), REFERENCE[f"p{i}"][0]) for i in range(2)
        ]
        chosen = [{"prompt_id": f"p{i}", "opponent": "chosen", "win": 1.0} for i in range(4)]
        write_jsonl(out / "score" / place / "records.jsonl", own + chosen)
        kl = read_json(out / "kl" / place / "metrics.json")
        reverse = dict.fromkeys((f"kl_rev_rb{end}" for end in ("", "_low", "_high", "_n")), 1.0 if early else 2.0)
        write_json(out / "kl" / place / "metrics.json", kl | reverse)
    return out


def test_policies_stand_above_the_reference_s_answers_to_the_same_prompts(scored: Path) -> None:
    rows = over_optimisation(scored, {"dpo_01": "dpo", "mine": "epsilon_dpo"}, 0.95, 17)
    own = [row for row in rows if row["family"] != "best of n"]
    assert [(row["run"], row["place"], row["scorer"]) for row in own] == [
        (run, place, scorer)
        for run, place in (("dpo_01", "."), ("mine", "snapshots/000002"), ("mine", "."))
        for scorer in ("judge", "true reward")
    ]
    for row in own:
        early = row["place"] != "."
        reward = {"judge": 5.25 - 2 * early, "true reward": -1.5 + 2 * early}[row["scorer"]]
        assert (row["reward"], row["kl"], row["n"]) == (pytest.approx(reward), 1.0 if early else 2.0, 2)


@pytest.mark.parametrize("n", [2, 4])
def test_best_of_n_is_the_mean_over_all_choices_of_n(scored: Path, n: int) -> None:
    rows = over_optimisation(scored, {}, 0.95, 17)
    found = {row["scorer"]: row for row in rows if row["run"] == f"best of {n}"}
    for place, scorer in enumerate(("judge", "true reward")):
        above = []
        for answers in REFERENCE.values():
            best = [max(chosen)[place] for chosen in combinations(answers, n)]
            above.append(sum(best) / len(best) - sum(answer[place] for answer in answers) / len(answers))
        assert found[scorer]["reward"] == pytest.approx(sum(above) / 2)
        assert found[scorer]["reward_low"] <= found[scorer]["reward"] <= found[scorer]["reward_high"]
    bound = {2: 0.1931471806, 4: 0.6362943611}[n]
    assert found["judge"]["kl"] == pytest.approx(bound, rel=1e-9)


def test_the_weights_of_the_best_of_two_of_three() -> None:
    assert best_of_n_weights(3, 2).tolist() == pytest.approx([0.0, 1 / 3, 2 / 3])
    assert best_of_n_weights(5, 1).tolist() == pytest.approx([0.2] * 5)


def test_it_is_drawn_where_scores_and_truth_are_known_and_nowhere_else(
    scored: Path, view: FiguresView, tmp_path: Path
) -> None:
    (tmp_path / "figures").mkdir()
    [figure] = [one for one in write_figures(scored, view, tmp_path / "figures") if one["name"] == "over_optimisation"]
    assert (tmp_path / "figures" / figure["image"]).stat().st_size > 10_000
    assert "Best of n (to n = 4)" in figure["caption"] and "2 prompts" in figure["caption"]
    assert "trained on" not in figure["alt"] and "teacher" not in figure["caption"]
    assert len((tmp_path / "figures/over_optimisation.csv").read_text("utf-8").splitlines()) == 1 + 2 * (4 + 2)
    write_json(scored / "teacher/judge.json", {"kind": "reward_model", "origin": "some/teacher"})
    (tmp_path / "taught").mkdir()
    [figure] = [one for one in write_figures(scored, view, tmp_path / "taught") if one["name"] == "over_optimisation"]
    assert "from another one, the teacher (a reward model, some/teacher): the judge's line is not" in figure["caption"]
    assert figure["alt"].endswith("The judge's is not the reward that was trained on: there is a teacher.")
    write_jsonl(scored / "controls/records.jsonl", [{"answer": "sft", "opponent": "chosen", "prompt_id": "p0"}])
    (tmp_path / "again").mkdir()
    assert "over_optimisation" not in [one["name"] for one in write_figures(scored, view, tmp_path / "again")]
