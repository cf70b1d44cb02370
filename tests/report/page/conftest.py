"""The outputs of a finished pipeline, made by hand: small enough to be read, in the form that the stages write."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from epsilon_dpo.analysis.intervals.win_rates import win_rate
from epsilon_dpo.analysis.kl.estimators import described
from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
TRUE_REWARDS = {"chosen": -0.25, "sft": 0.5}  # of the two answers that a run's are compared with
RUNS: dict[str, dict[str, Any]] = {
    "dpo": {"method": "dpo", "beta": 0.1},
    "mine": {"method": "epsilon_dpo", "beta": 0.1, "epsilon": 0.01},
}


def rates(name: str, wins: list[float]) -> dict[str, float]:
    return win_rate(wins, range(len(wins)), 0.95).named(name)


def ranked(players: list[str], n: int) -> list[dict[str, Any]]:
    """The first at 60 Elo points and an expected win rate of 0.7, each next one 40 points and 0.05 below; the first two
    share their places."""
    rows = []
    for place, policy in enumerate(players, start=1):
        row: dict[str, Any] = {"policy": policy, "n": n, "group": max(1, place - 1), "identical_share": 0.875}
        row |= {"place_first": 1, "place_last": 2} if place < 3 else {"place_first": place, "place_last": place}
        found = (("strength", 0.5, 0.1), ("elo", 100.0 - 40.0 * place, 15.0), ("win_rate", 0.75 - 0.05 * place, 0.1))
        for name, value, reach in found:
            row |= {name: value, f"{name}_low": value - reach, f"{name}_high": value + reach}
        rows.append(row)
    return rows


class Outputs:
    """Writes the folders below `out`; `wins` gives per run the judged win over chosen of each prompt.

    What wins over the chosen answer loses to SFT's, so that the two can be told apart wherever they are shown.
    """

    def __init__(self, out: Path, truth: bool, n: int) -> None:
        self.out, self.truth, self.n = out, truth, n
        self.ids = [f"eval/{row}" for row in range(n)]

    def shared(self) -> None:
        splits = {
            "eval": {"rows": 12, "kept": self.n, "dropped": 12 - self.n, "truncated_answers": 0},
            "train": {"rows": 40, "kept": 40, "dropped": 0, "truncated_answers": 3},
        }
        broken = {
            "expectation": "sides_not_empty",
            "meaning": "both answers hold text",
            "split": "eval",
            "on_failure": "drop",
            "success": False,
            "evaluated": 12,
            "unexpected": 12 - self.n,
            "first_ids": ["eval/gone"],
        }
        self.json("validate/dataset.json", {"source": "by hand", "files": {}, "true_reward": self.truth})
        found = [{"name": "identical_rows", "count": 11}, {"name": "contradicting_rows", "count": 13}]
        outcome = {"splits": splits, "expectations": [broken], "defects": found}
        outcome |= {"length_bias": {"train": {"chosen_longer_share": 0.6125}}}
        self.json("validate/validation.json", outcome)
        self.json("pairs/pairs.json", {"source": "dataset", "train": 40, "eval": self.n, "left_out": {}})
        for name in ("train", "eval"):
            self.jsonl(f"validate/{name}.jsonl", [])
        judge = {"source": "pretrained", "origin": "judge/by-hand", "model_sha256": "a" * 64}
        for folder in ("judge", "teacher"):
            self.json(f"{folder}/judge.json", judge)
        judged: dict[str, Any] = {**rates("accuracy", [1, 1, 0, 1]), "consistency": 0.9, "consistency_n": 3}
        half = [0.5] * self.n
        controls = {"confidence": 0.95, "n": self.n, **rates("win_rate/sft_vs_chosen", half)}
        controls |= rates("win_rate/chosen_vs_rejected", [1.0] * self.n) | rates("win_rate/chosen_vs_chosen", half)
        controls |= rates("win_rate/shuffled_vs_chosen", half)
        if self.truth:
            judged |= rates("truth_agreement", [1, 0, 1]) | rates("true_win_rate", [1, 1, 1, 0])
            controls |= rates("true_win_rate/shuffled_vs_chosen", [0.0] * self.n)
            controls |= rates("true_win_rate/sft_vs_chosen", half) | rates("truth_agreement/sft_vs_chosen", [1, 1])
            controls |= {"true_reward/sft": 0.5, "true_reward/sft_low": 0.4, "true_reward/sft_high": 0.6}
        for folder in ("judge", "teacher"):
            self.json(f"{folder}/metrics.json", judged)
        self.json("controls/metrics.json", controls)
        self.json("sft/metrics.json", {"steps": 10, "eval_loss": 1.0})
        self.samples("reference", "SFT says", "s" * 64)

    def run(self, name: str, wins: list[float], adapts: bool, refers: bool, true_wins: list[float]) -> None:
        policy = (name + "0" * 64)[:64]
        size = 1 + len(name)  # so that runs differ
        curve = []
        for step in range(1, 5):
            row = {"step": step, "loss": size - 0.01 * step, "rewards/accuracies": 0.5, "logps/chosen": -size * step}
            row |= {"margins_raw": 0.1 * size * step, "kl/fwd_data": 0.2 * size * step} if refers else {}
            row |= {"eps/beta": 0.1 - 0.01 * step} if adapts else {}
            row |= {"eps/lowered": 0.5, "eps/raised": 0.3, "eps/kept": 0.2} if adapts else {}
            curve.append(row)
        self.jsonl(f"align/metrics/{name}/metrics.jsonl", curve)
        final = {"steps": 4, "eval_loss": 0.6, "eval_rewards/accuracies": 0.7, "eval_rewards/margins": 0.2}
        final |= {"eval_logps/chosen": -5.5} | ({"eval_margins_raw": 1.25, "eval_kl/fwd_data": 0.75} if refers else {})
        self.json(f"align/metrics/{name}/metrics.json", final)
        self.samples(f"sample/{name}", f"{name} says", policy)
        records, score = [], {"policy_sha256": policy, "confidence": 0.95, "n": self.n}
        for opponent, true_b in TRUE_REWARDS.items():
            if opponent == "sft":
                wins, true_wins = ([1.0 - win for win in over_chosen] for over_chosen in (wins, true_wins))
            for key, win, true_win in zip(self.ids, wins, true_wins, strict=True):
                record = {"id": key, "prompt_id": key, "opponent": opponent, "win": win, "refused": False}
                record |= {"f_ab": win - 0.5, "f_ba": 0.5 - win}
                records.append(record | ({"true_win": true_win, "true_a": 1.5, "true_b": true_b} if self.truth else {}))
            score |= rates(f"win_rate/{opponent}", wins)
            score |= rates(f"true_win_rate/{opponent}", true_wins) if self.truth else {}
        score |= {"true_reward/run": 1.5, "true_reward/run_low": 1.4, "true_reward/run_high": 1.6} if self.truth else {}
        self.jsonl(f"score/{name}/records.jsonl", records)
        self.json(f"score/{name}/metrics.json", score)
        kl = {"policy_sha256": policy, "sample_temperature": 1.0}
        for estimator, value in {"fwd_rb": 2.0, "fwd_mc": 1.9, "fwd_data": 2.5, "rev_rb": 1.25, "rev_mc": 1.5}.items():
            ends = {"": value, "_se": 0.1, "_low": value - 0.2, "_high": value + 0.2, "_truncated_share": 0.0}
            kl |= {f"kl_{estimator}{end}": x for end, x in ends.items()}
        self.json(f"kl/{name}/metrics.json", kl | {"kl_rev_rb_truncated_share": 0.125})
        self.json(f"kl/{name}/estimators.json", described(0.95))

    def paper(self) -> None:
        """Two figures (one image for both) and one pair, as stage figures hands them on."""
        figures = [
            {"name": "pareto", "title": "First <title>", "caption": "Of 8 prompts.", "image": "images/one.png"}
            | {"alt": "It <rises>.", "data": ["pareto.csv", "frontiers.csv"]},
            {
                "name": "margins",
                "title": "Second title",
                "caption": "Of 9 pairs.",
                "alt": "It falls.",
                "image": "images/one.png",
                "data": [],
            },
        ]
        pair = {"title": "Table 5", "run": "dpo", "direction": "decreasing", "margin": -1.25, "rejected": ""}
        pair |= {"prompt": [{"role": "user", "content": "why?"}], "chosen": "because <b>"}
        self.json("figures/figures.json", figures)
        self.json("figures/pairs.json", [pair])
        (self.out / "figures/images").mkdir(exist_ok=True)
        (self.out / "figures/images/one.png").write_bytes(b"an image")

    def tournament(self, runs: list[str]) -> None:
        """The runs in the order given before SFT and the chosen answers; the truth has it the other way round."""
        players = [*runs, "sft", "chosen"]
        tables = {"win": ranked(players, self.n)} | ({"true_win": ranked(players[::-1], self.n)} if self.truth else {})
        self.json("tournament/ranking.json", tables)
        for folder in ("tournament", "ranking_usage", "margins_usage"):
            self.json(f"{folder}/usage.json", {})

    def samples(self, folder: str, says: str, policy: str) -> None:
        rows = [
            {
                "id": key,
                "prompt_id": key,
                "prompt": [{"role": "user", "content": f"question of {key}"}],
                "chosen": f"good answer to {key}",
                "response": f"{says} <script>alert({key!r})</script>",
                "response_ids": [1, 2],
                "finish_reason": "stop",
            }
            for key in self.ids
        ]
        self.jsonl(f"{folder}/samples.jsonl", rows)
        facts = {"mean_tokens": 2.0, "truncated_share": 0.0, "empty_share": 0.0, "temperature": 1.0}
        self.json(f"{folder}/metrics.json", {"n": self.n, **facts, "policy_sha256": policy})

    def json(self, name: str, content: Any) -> None:
        (self.out / name).parent.mkdir(parents=True, exist_ok=True)
        write_json(self.out / name, content)

    def jsonl(self, name: str, rows: list[Any]) -> None:
        (self.out / name).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(self.out / name, rows)


@pytest.fixture(autouse=True)
def _one_pixel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of each image, whose rendering takes most of the time of a page that is read for its text."""
    if not request.node.get_closest_marker("drawings"):
        monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: Path(path).write_bytes(PIXEL))


@pytest.fixture
def runs() -> dict[str, dict[str, Any]]:
    return RUNS


@pytest.fixture
def outputs(tmp_path: Path) -> Callable[..., Path]:
    """Make out/ with the judged wins over chosen given per run, each of which is a loss to SFT and the other way round.

    The truth says the same, but where `true` gives other wins over chosen of a run. Unless asked otherwise `mine`
    adapts its beta, every run has a reference and the tournament compared all of them.
    """

    def make(
        truth: bool = True,
        adapting: tuple[str, ...] = ("mine",),
        free: tuple[str, ...] = (),
        runs: tuple[str, ...] = (),
        true: dict[str, list[float]] | None = None,
        **wins: list[float],
    ) -> Path:
        wins = wins or {"dpo": [1.0, 0.0, 0.5, 1.0, 0.0, 0.0, 1.0, 1.0], "mine": [1.0] * 8}
        made = Outputs(tmp_path / "out", truth, len(next(iter(wins.values()))))
        made.shared()
        for name, values in wins.items():
            made.run(name, values, name in adapting, name not in free, (true or {}).get(name, values))
        made.tournament(list(runs or wins))
        made.paper()
        return made.out

    return make
