"""The model card of a run's policy: what its results were, what it was made of and under which licence, as far as that
is known. The numbers are those of the report, the facts those of `whence`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from epsilon_dpo.pipeline.stage.files import Json
from epsilon_dpo.pipeline.stage.manifest import is_adapter, portable
from epsilon_dpo.pipeline.stage.params import PARAMS_FILE, flow
from epsilon_dpo.pipeline.stage.runs import CHOSEN, SFT, readable
from epsilon_dpo.provenance.champion.recorded import Policy
from epsilon_dpo.provenance.graph.project import Project
from epsilon_dpo.report.style.signs import fixed, percent

TEMPLATE = Path(__file__).with_name("card.md.jinja")
OPPONENTS = {CHOSEN: "the chosen answers", SFT: "the reference's answers"}
RATES = {"true_win_rate": "true wins over", "win_rate": "judged wins over"}
KL = "kl_fwd_rb"
PIPELINE = "epsilon-dpo"
PINS_FILE = "pins.yaml"  # as dvc.lock names it
Licence = Callable[[str, str, str], str | None]  # of a repository on the Hub at a revision, of its kind


@dataclass(frozen=True)
class Source:
    """The data of a block `fetch`, or of one member of a mixture.

    Attributes:
        member: its name; empty: there is no mixture.
        repository, revision: on the Hub; None: they are of this machine, generated or not known.
        is_generated: by the code of this pipeline.
    """

    member: str
    repository: str | None
    revision: str | None
    is_generated: bool

    @property
    def name(self) -> str:
        """As the card calls it; empty where it is the only one and on no Hub."""
        if self.repository or not self.member:
            return self.repository or ""
        return self.member if self.is_generated else f"{self.member}, of this machine"


def card(
    project: Project, policy: Policy, summary: Json, repo: str | None, licence: str | None, licence_of: Licence
) -> ModelCard:
    """The card of `policy`, whose results are in `summary`, the report's.

    Args:
        repo: on the Hub, where the policy is going to be; None: not known.
        licence: that of the policy, as the Hub names it; None: nobody gave one.
        licence_of: what the Hub says of the base model and of datasets.
    """
    under, found = summary.get("sampled_under", ""), policy.origin
    run = readable(summary["runs"][policy.run], under)
    base, fetch = found["base"] or {}, (found["data"] or {}).get("params") or {}
    sources = sources_of(fetch)
    on_hub = [source.repository for source in sources if source.repository]
    metadata = ModelCardData(
        base_model=base.get("path") if base.get("revision") else None,
        datasets=list(dict.fromkeys(on_hub)) or None,
        eval_results=list(_eval_results(run, summary, sources, fetch)),
        library_name="transformers",
        license=licence,
        model_name=policy.run,
        pipeline_tag="text-generation",
        tags=["preference-optimization", PIPELINE, run["config"]["method"]],
    )
    name = (repo or f"{PIPELINE} {policy.run}").rpartition("/")[2]
    return ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        title=name,
        policy=policy.run,
        summary=_summary(policy, run, base),
        usage=_usage(repo or "REPOSITORY"),
        merged=is_adapter(Path(policy.path)),
        n=run["n"],
        level=f"{100 * summary['confidence']:g} %",
        under=under,
        judge=_judge(summary),
        results=list(_rows(run)),
        runs=", ".join(summary["runs"]),
        statements=summary["statements"],
        recipe="\n".join(_recipe(project, policy)),
        data=list(_data(found, summary, sources)),
        licences=list(_licences(base, sources, licence, licence_of)),
        versions=", ".join(f"{package} {version}" for package, version in _packages(project, policy)) + ".",
        sha256=policy.sha256,
        recorded=f"recorded by `dvc.lock` of commit `{policy.commit}`"
        if policy.commit
        else "in no commit's `dvc.lock`",
    )


def sources_of(fetch: Json, member: str = "") -> list[Source]:
    """Those of a block `fetch`, which is a mixture's or that of its `member`; empty: not known."""
    if "members" in fetch:
        return [source for name, one in fetch["members"].items() for source in sources_of(one["fetch"], name)]
    repository, revision = fetch.get("repo") or fetch.get("path"), fetch.get("revision")
    if not (repository and revision):
        repository = revision = None
    return [Source(member, repository, revision, fetch.get("source") == "synthetic")]


def _values(run: Json) -> Iterator[tuple[str, str, tuple[float, float, float]]]:
    """Metric, what it is called, and its value with the ends of its interval: those that the run has."""
    for rate, wins in RATES.items():
        for opponent, name in OPPONENTS.items():
            if f"{rate}/{opponent}" in run:
                yield rate, f"{wins} {name}", _with_interval(run, f"{rate}/{opponent}")
    if KL in run:
        yield "kl_divergence", "KL(reference ‖ policy), nats per answer", _with_interval(run, KL)


def _with_interval(run: Json, name: str) -> tuple[float, float, float]:
    return run[name], run[f"{name}_low"], run[f"{name}_high"]


def _rows(run: Json) -> Iterator[dict[str, str]]:
    for metric, name, values in _values(run):
        value, low, high = (fixed(x, 2) if metric == "kl_divergence" else percent(x) for x in values)
        yield {"name": name, "value": value, "low": low, "high": high}


def _eval_results(run: Json, summary: Json, sources: list[Source], fetch: Json) -> Iterator[EvalResult]:
    """A mixture's are of no repository: its evaluation pairs are of all members."""
    repository, revision = (sources[0].repository, sources[0].revision) if len(sources) == 1 else (None, None)
    for metric, name, (value, low, high) in _values(run):
        yield EvalResult(
            task_type="text-generation",
            dataset_type=repository or PIPELINE,
            dataset_name=repository or f"{fetch.get('source', 'own')} data",
            dataset_split="eval",
            dataset_revision=revision,
            dataset_args={"sha256": summary["data_sha256"]["eval.jsonl"]},
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4),
            metric_args={"low": round(low, 4), "high": round(high, 4), "confidence": summary["confidence"]},
        )


def _summary(policy: Policy, run: Json, base: Json) -> str:
    start = portable(base.get("path")) or ("a small embedded model" if base else "a model that is not known here")
    at = f" at revision `{base['revision']}`" if base.get("revision") else ""
    return (
        f"The policy of run `{policy.run}`: preference optimisation by method `{run['config']['method']}` of a "
        f"reference that began as {start}{at}. Made by {PIPELINE}, a DVC pipeline that trains, samples, judges and "
        "compares."
    )


def _usage(repo: str) -> str:
    loaded = (
        f'model = AutoModelForCausalLM.from_pretrained("{repo}")\ntokenizer = AutoTokenizer.from_pretrained("{repo}")'
    )
    # Its configs have names that older versions do not know: the tokenizer's class, or rope_parameters, which they
    # pass over in silence.
    return f"# transformers 5 or newer\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n{loaded}"


def _judge(summary: Json) -> str:
    judge = summary["judge"]
    said = f"Judge: {judge.get('kind', judge['source'])}, {portable(judge['origin'])}."
    if judge.get("criterion"):  # of an LLM, in place of the project's own
        said += f" It was asked which answer is better by: “{' '.join(judge['criterion'].split())}”"
    return said + (" The true reward of these data is known." if summary["true_reward"] else "")


def _recipe(project: Project, policy: Policy) -> Iterator[str]:
    """The params of the stages that the policy was made by, each once; those of the data are said of the data."""
    for name, value in portable(_locked(project, policy, PARAMS_FILE.name)).items():
        if name != "fetch":
            yield f"{name}: {flow(value)}"


def _packages(project: Project, policy: Policy) -> list[tuple[str, str]]:
    """Those that the policy was made by, and all that it was made from, with their versions."""
    return sorted(_locked(project, policy, PINS_FILE).items(), key=lambda pin: pin[0].lower())


def _locked(project: Project, policy: Policy, file: str) -> Json:
    """What the stages that the policy was made by have of a file of params, as dvc.lock records it."""
    made_by = {parent["stage"] for parent in policy.origin["parents"]}
    params: Json = {}
    for stage in project.stages:
        if stage.addressing in made_by:
            params |= (project.locked(stage) or {}).get("params", {}).get(file, {})
    return params


def _data(found: Json, summary: Json, sources: list[Source]) -> Iterator[str]:
    dataset = summary["dataset"]
    for source in sources:
        facts = dataset.get("members", {}).get(source.member, {}) if source.member else dataset
        rows = ", ".join(f"{count:,} {split}" for split, count in facts.get("rows", {}).items())
        said = source.name or dataset["source"]
        if source.repository:
            said = f"[{said}](https://huggingface.co/datasets/{said}) at revision `{source.revision}`"
        yield f"Source: {said}" + (f"; rows: {rows}" if rows else "")
    if found["data"]:
        yield f"`fetch: {flow(portable(found['data']['params']))}`"
    for name, sha256 in dataset.get("files", {}).items():
        yield f"`{name}`, sha256 `{sha256}`"
    for name, sha256 in summary["data_sha256"].items():
        yield f"`{name}` as validated, sha256 `{sha256}`"


def _licences(base: Json, sources: list[Source], licence: str | None, licence_of: Licence) -> Iterator[str]:
    yield f"This policy: {licence or 'nobody has stated one'}"
    if base.get("revision"):
        stated = licence_of(base["path"], base["revision"], "model")
        yield f"Base model {base['path']}: {stated or 'see its page on the Hub'}"
    elif base.get("source") == "pretrained":
        yield "Base model, a local folder: not recorded"
    elif not base:
        yield "Base model: not known"
    for source in sources:
        stated = f"generated by the code of {PIPELINE}, Apache-2.0" if source.is_generated else "not recorded"
        if source.repository and source.revision:
            stated = licence_of(source.repository, source.revision, "dataset") or "see its page on the Hub"
        yield f"Data {source.name}: {stated}" if source.name else f"Data: {stated}"
