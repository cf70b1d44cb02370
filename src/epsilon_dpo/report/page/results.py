"""Everything the report shows, read from out/ and checked to belong together."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row, read_json, read_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.runs import CHOSEN, SFT, metrics_folder

# Methods that train on out/margins, by name: asking the registry would make the page depend on the code of all methods.
READ_MARGINS = ("madpo",)


@dataclass(frozen=True)
class RunResult:
    """What one run of params.yaml left behind.

    Attributes:
        config: its entry in params.yaml.
        curve: rows of out/align/metrics/<run>/metrics.jsonl.
        final: out/align/metrics/<run>/metrics.json.
        sampled, score, kl: metrics.json of these stages.
        estimators: out/kl/<run>/estimators.json.
        answers: rows of out/sample/<run>/samples.jsonl.
        records: rows of out/score/<run>/records.jsonl.
    """

    name: str
    config: dict[str, Any]
    curve: list[Row]
    final: Row
    sampled: Row
    score: Row
    kl: Row
    estimators: Row
    answers: list[Row]
    records: list[Row]

    @property
    def policy_sha256(self) -> str:
        return str(self.sampled["policy_sha256"])

    @property
    def learns_from_own_answers(self) -> bool:
        return "eval_reward" in self.final

    def verdicts(self, opponent: str) -> dict[str, Row]:
        """The records against `opponent` (chosen, sft), by the answer's `id`."""
        return {record["id"]: record for record in self.records if record["opponent"] == opponent}


@dataclass(frozen=True)
class Results:
    """What all runs share, and the runs in the order of params.yaml.

    Attributes:
        dataset: out/validate/dataset.json; validation: the outcome of the contract.
        pairs: out/pairs/pairs.json: `source` and number (`train`) of the pairs that policies were trained on.
        digests: sha256 of the validated splits, by file name.
        judge: out/judge/judge.json; judged: its metrics.json, on all evaluation pairs.
        teacher: out/teacher/judge.json, of the judge that policies learn from, and its metrics; None: it is this one.
        base: name of the model that SFT started from; if there was no SFT, it is the reference itself.
        sft: out/sft/metrics.json; reference: metrics of the SFT policy's answers, which are `reference_answers`.
        controls: out/controls/metrics.json.
        scorer: source of the scores that online runs were trained on; None: no run is online.
        margins: source of out/margins; None: no run reads it.
        paper_figures: out/figures/figures.json, each with its image's bytes as `png`; paper_pairs: pairs.json there.
        ranking: out/tournament/ranking.json, the players from the strongest to the weakest by `win` and `true_win`;
            tournament_usage: usage.json there, what judging it took.
        ranking_usage, margins_usage: what these stages asked of the judge that policies learn from.
    """

    runs: list[RunResult]
    dataset: Row
    pairs: Row
    validation: Row
    digests: dict[str, str]
    judge: Row
    judged: Row
    teacher: Row | None
    sft: Row
    reference: Row
    reference_answers: list[Row]
    controls: Row
    ranking: dict[str, list[Row]]
    tournament_usage: Row
    ranking_usage: Row
    margins_usage: Row
    paper_figures: list[Row]
    paper_pairs: list[Row]
    base: str
    scorer: str | None
    margins: str | None

    @property
    def n(self) -> int:
        """Answers of every policy."""
        return len(self.reference_answers)

    @property
    def prompts(self) -> int:
        """Prompts that every policy answered."""
        return len({row["prompt_id"] for row in self.reference_answers})

    @property
    def times(self) -> int | None:
        """How often every policy answered each of them; None: not all alike, as where several rows share some."""
        counts = {*Counter(row["prompt_id"] for row in self.reference_answers).values()}
        return counts.pop() if len(counts) == 1 else None

    @property
    def confidence(self) -> float:
        return float(self.controls["confidence"])

    @property
    def sampled_under(self) -> str:
        """The settings of sampling under which a KL over the answers is not the policies' KL; empty if none."""
        return str(self.runs[0].kl.get("sampled_under", ""))

    @property
    def has_sft(self) -> bool:
        """Whether the reference was trained; if not, the policy called SFT is the base model."""
        return bool(self.sft["steps"])

    @property
    def has_truth(self) -> bool:
        """Whether the data's true reward is known, so that the judge is judged too."""
        return bool(self.dataset["true_reward"])

    @property
    def has_preferences(self) -> bool:
        """Whether somebody, or a rule, compared the two answers of the dataset's pairs."""
        return bool(self.dataset.get("preferences", True))

    @property
    def has_classifier(self) -> bool:
        """Whether this is the control setting: labelled texts, and a sentiment classifier whose P(positive) is the true
        score."""
        return self.judge.get("kind") == "sentiment" and not self.has_preferences

    @property
    def dropped_by_fetch(self) -> Counter[str]:
        """How many rows the contract never saw, by reason."""
        return Counter(self.dataset.get("dropped", {}))

    @property
    def from_pairs(self) -> list[RunResult]:
        """The runs that were trained on the pairs."""
        return [run for run in self.runs if not run.learns_from_own_answers]

    @property
    def from_own_answers(self) -> list[RunResult]:
        """The others: online runs."""
        return [run for run in self.runs if run.learns_from_own_answers]

    @property
    def part_of_an_epoch(self) -> float | None:
        """How much of the pairs a run has seen; None: all. Block `align` says how long, for all runs alike."""
        seen = min((float(run.final.get("train_epoch", 1.0)) for run in self.from_pairs), default=1.0)
        return seen if round(seen, 2) < 1.0 else None

    @property
    def processes(self) -> dict[str, int]:
        """In how many processes the policies were trained, SFT among them, of those that were in several."""
        trained = {"sft": self.sft, **{run.name: run.final for run in self.runs}}
        return {name: final["processes"] for name, final in trained.items() if "processes" in final}

    @property
    def on_policy(self) -> bool:
        """Whether the pairs trained on are the reference's own answers, ranked by the judge or the teacher."""
        return bool(self.pairs["source"] == "on_policy")

    @property
    def taught(self) -> list[str]:
        """The runs that learned what a judge prefers: from its scores, from pairs that it ranked or from its margins.
        It is the teacher, or the one that judges them here. Also where a classifier's score is called the true one
        (docs/rlhf.md)."""
        return [run.name for run in self.runs if self._is_taught(run)]

    def _is_taught(self, run: RunResult) -> bool:
        if run.learns_from_own_answers:
            return self.scorer == "judge"
        return self.on_policy or (self.margins == "judge" and run.config["method"] in READ_MARGINS)


def read_results(
    out: Path,
    runs: dict[str, dict[str, Any]],
    base: str = "the base model",
    scorer: str | None = None,
    margins: str | None = None,
) -> Results:
    """The outputs below `out` of the runs named, and of no others.

    Args:
        base: name of the base model, as the page shows it.
        scorer: source of the scores that online runs were trained on; None: no run is online.
        margins: source of the margins that runs were trained with; None: no run reads any.

    Raises:
        UserError: the parts of a run speak of different policies, or answer other prompts than the reference; or the
            tournament was between others.
    """
    validate, judge = out / "validate", out / "judge"
    results = Results(
        runs=[_run(out, name, config) for name, config in runs.items()],
        dataset=read_json(validate / "dataset.json"),
        pairs=read_json(out / "pairs" / "pairs.json"),
        validation=read_json(validate / "validation.json"),
        digests={name: digest(validate / name) for name in ("train.jsonl", "eval.jsonl")},
        judge=read_json(judge / "judge.json"),
        judged=read_json(judge / "metrics.json"),
        teacher=_teacher(out),
        sft=read_json(out / "sft" / "metrics.json"),
        reference=read_json(out / "reference" / "metrics.json"),
        reference_answers=read_jsonl(out / "reference" / "samples.jsonl"),
        controls=read_json(out / "controls" / "metrics.json"),
        ranking=read_json(out / "tournament" / "ranking.json"),
        tournament_usage=read_json(out / "tournament" / "usage.json"),
        ranking_usage=read_json(out / "ranking_usage" / "usage.json"),
        margins_usage=read_json(out / "margins_usage" / "usage.json"),
        paper_figures=[
            figure | {"png": (out / "figures" / figure["image"]).read_bytes()}
            for figure in read_json(out / "figures" / "figures.json")
        ],
        paper_pairs=read_json(out / "figures" / "pairs.json"),
        base=base,
        scorer=scorer,
        margins=margins,
    )
    prompts = [row["id"] for row in results.reference_answers]
    for run in results.runs:
        if [row["id"] for row in run.answers] != prompts:
            raise UserError(f"out/sample/{run.name} answers other prompts than out/reference; run `dvc repro`.")
    if {row["policy"] for row in results.ranking["win"]} != {*runs, SFT, CHOSEN}:
        raise UserError("out/tournament ranks other policies than the runs of params.yaml; run `dvc repro`.")
    return results


def _teacher(out: Path) -> Row | None:
    teacher = read_json(out / "teacher" / "judge.json")
    if teacher == read_json(out / "judge" / "judge.json"):
        return None
    return {**teacher, **read_json(out / "teacher" / "metrics.json")}


def _run(out: Path, name: str, config: dict[str, Any]) -> RunResult:
    folder = {stage: out / stage / name for stage in ("sample", "score", "kl")}
    trained = metrics_folder(out, name)
    found = RunResult(
        name=name,
        config=dict(config),
        curve=read_jsonl(trained / "metrics.jsonl"),
        final=read_json(trained / "metrics.json"),
        sampled=read_json(folder["sample"] / "metrics.json"),
        score=read_json(folder["score"] / "metrics.json"),
        kl=read_json(folder["kl"] / "metrics.json"),
        estimators=read_json(folder["kl"] / "estimators.json"),
        answers=read_jsonl(folder["sample"] / "samples.jsonl"),
        records=read_jsonl(folder["score"] / "records.jsonl"),
    )
    policies = {part["policy_sha256"] for part in (found.sampled, found.score, found.kl)}
    if len(policies) > 1:
        raise UserError(
            f"out/sample/{name}, out/score/{name} and out/kl/{name} are of different policies; run `dvc repro`."
        )
    return found
