"""What the MLflow UI shows of the experiment: a note, and saved views of the comparison with their charts."""

import json
from collections.abc import Iterable
from typing import Any

from epsilon_dpo.mlflow_writer.identity import RECIPE

VIEW, POLICIES, SEEDS, ANSWERS = "comparison", "policies", "seeds", "answers"
NAMES = {  # in the page's menu `Views`
    POLICIES: "Policies",
    SEEDS: "Seeds averaged",
    ANSWERS: "Answers side by side",
}
MADE_MS = 1_790_000_000_000  # the menu wants a time; one that moved would be a new view for each stage
CURVE = "1_train/"  # what a training logs per step: the page sorts its groups by name
SHARED_VIEW = "mlflow.sharedViewState."
FILTER = "tags.in_report = 'true'"
STUDY, STUDY_SEED = "study", "study_seed"  # tags of a replicate's rows: its level and its seed
SUMMARY = "study_summary"  # tag of a row that says a recipe's means over replicates: their level
BY_RECIPE = {"mode": "tag", "groupByData": RECIPE}  # one key: of several the page's list shows the first alone
# KL stands where a narrow window still shows it; then the truth first, and every rate with its interval: a column of
# rates alone is read as an order that they do not give.
COLUMNS = (
    f"tags.`{RECIPE}`",
    "metrics.`kl_fwd_rb`",
    "metrics.`true_win_rate/sft`",
    "metrics.`true_win_rate/sft_low`",
    "metrics.`true_win_rate/sft_high`",
    "metrics.`win_rate/sft`",
    "metrics.`win_rate/sft_low`",
    "metrics.`win_rate/sft_high`",
)
KL = "kl_fwd_rb"
RATES = ("true_win_rate", "win_rate")  # of a summary: over the chosen answers, as in docs/replication.md
OVER_CHOSEN = ("true_win_rate/chosen", "win_rate/chosen")  # the same of a single policy
RUN_NAME = "attributes.`Run Name`"
MOST_RUNS = 100  # in one chart
PAGE = 100  # rows that the page asks for
BETAS = ("eps/beta", "beta_dpo/beta", "ppo/beta")  # of the methods that change it; a chart without values is hidden
TRAINED = ("loss", "rewards/accuracies", "rewards/margins", "kl/fwd_data", "entropy")
SPEED = ("tokens_per_second", "peak_memory_megabytes", "seconds")
LINK = "?viewStateShareKey={key}&workflowType=machine_learning"
NOTE = f"""The policies of the last report, in the menu *Views* above: *{"*, *".join(NAMES.values())}*.
*Replication study* and a level's name: a row per recipe and beta, with mean and interval over the replicates of
study/results. The same with *seeds*: the single trainings of that level which `epsilon-dpo study` has collected here.

The same by what is put behind `/runs` in the address:

- *{NAMES[POLICIES]}*, `{LINK.format(key=POLICIES)}&compareRunsMode=CHART`: win rate against KL, win rates, curves
- *{NAMES[SEEDS]}*, `{LINK.format(key=SEEDS)}&compareRunsMode=CHART`: a mark per method and its values, over seeds
- *{NAMES[ANSWERS]}*, `{LINK.format(key=ANSWERS)}&compareRunsMode=ARTIFACT`: group by `prompt`, compare `answer`
- *Replication study, LEVEL*, `{LINK.format(key=f"{STUDY}-LEVEL")}`: over replicates
- the table: `{LINK.format(key=VIEW)}`, or filter by `{FILTER}`

The page takes {PAGE} rows at first, by their names, and counts no others: *Load more* stands below the list.

One run per stage execution. The rows `align@…` carry win rate and KL of the policy that they made, with intervals, and
the places that the data leave open among the policies of the report (`place_first` to `place_last` by the judge,
`true_place_first` to `true_place_last` by the true reward). Two policies whose places do not overlap are told apart,
two whose places overlap may be, too. MLflow draws no intervals; `out/report/report.html` does.

On a shared server each project's last report is shown: `tags.project = 'ID'` keeps one's own trainings.

An experiment that `dvc exp run --queue` or `--temp` ran has marks of its own: filter by `tags.experiment = 'NAME'`.
Of a policy that another report shows, too, its values are on the rows `score@…` and `kl@…` of the experiment only.
"""


def experiment_tags() -> dict[str, str]:
    """Tags that the UI reads: its kind (training, not chats), the note, the saved views that a share link names."""
    tags = {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": NOTE,
        f"{SHARED_VIEW}{VIEW}": json.dumps(_state([])),
    }
    by_method = {"mode": "tag", "groupByData": "method"}
    states = {POLICIES: _state([by_method]), SEEDS: _state([BY_RECIPE], averaged=True), ANSWERS: _state([])}
    return tags | {f"{SHARED_VIEW}{key}": _named(NAMES[key], state) for key, state in states.items()}


def summary_tag(level: str) -> tuple[str, str]:
    """The tag with the view of a level's summary, a row per recipe and beta: every number with its interval."""
    shown = [f"{STUDY}/{name}{end}" for name in ("kl", *RATES) for end in ("", "_low", "_high")]
    columns = {f"metrics.`{name}`": 32 + 6 * len(name) for name in shown}
    state = _state([]) | _columns(columns | {f"metrics.`{STUDY}/replicates`": 125}, names=390)
    state |= {"searchFilter": f"tags.{SUMMARY} = '{level}'", "runsHiddenMode": "SHOW_ALL"}
    state["compareRunSections"] = [
        _section("frontier", "Win rate over the chosen against KL", height=560),
        _section(STUDY, STUDY) | {"display": False},  # the page adds bars to it, too many to be read: folded
    ]
    state["compareRunCharts"] = [_scatter(rate, "frontier", f"{STUDY}/{rate}", kl=f"{STUDY}/kl") for rate in RATES]
    return f"{SHARED_VIEW}{STUDY}-{level}", _named(f"Replication study, {level}", state)


def seeds_tag(level: str, recipes: Iterable[str]) -> tuple[str, str]:
    """The tag with the view of a level's single trainings, a closed group per recipe: those of two levels are not of
    one experiment. It has no bars, which would be too many to be read."""
    columns = {f"metrics.`{name}`": 190 for name in (KL, *OVER_CHOSEN)} | {f"tags.`{STUDY_SEED}`": 110}
    state = (
        _state([BY_RECIPE], averaged=True)
        | _columns(columns, names=480)
        | {"searchFilter": f"tags.{STUDY} = '{level}'"}
    )
    state["groupsExpanded"] = {f"tag.{RECIPE}.{recipe}": False for recipe in sorted(recipes)}
    curves = [card for card in state["compareRunCharts"] if card["type"] == "LINE"]
    sections = zip(("truth", "judged"), OVER_CHOSEN, strict=True)
    state["compareRunCharts"] = [*(_scatter(rate, section, rate) for section, rate in sections), *curves]
    return f"{SHARED_VIEW}{STUDY}-{level}-{SEEDS}", _named(f"Replication study, {level}, {SEEDS}", state)


def view_of(experiment: str, level: str) -> str:
    """The address, behind that of the server, of a level's summary."""
    return f"/#/experiments/{experiment}/runs{LINK.format(key=f'{STUDY}-{level}')}"


def _columns(columns: dict[str, int], names: int) -> dict[str, Any]:
    """Of a view whose names of rows are long: its columns; all widths in pixels."""
    order = [RUN_NAME, *columns]
    return {"selectedColumns": [*columns], "columnOrder": order, "columnWidths": {RUN_NAME: names} | columns}


def _named(name: str, state: dict[str, Any]) -> str:
    """A view with a name in the page's menu."""
    return json.dumps({"name": name, "createdAt": MADE_MS, "updatedAt": MADE_MS, "state": json.dumps(state)})


def _state(groups: list[dict[str, str]], averaged: bool = False) -> dict[str, Any]:
    """What the page keeps of a view. `averaged`: its charts have a mark per group and not per run, and it shows no
    intervals, since a mean of intervals' ends is no interval's end."""
    grouped = {"aggregateFunction": "average", "groupByKeys": groups} if groups else None
    columns = [column for column in COLUMNS if not (averaged and column.endswith(("_low`", "_high`")))]
    ends = ("",) if averaged else ("", "_low", "_high")
    return {
        "searchFilter": FILTER,
        "orderByKey": "tags.`mlflow.runName`",  # no order by a rate: intervals may not separate the rows
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {column: 100 + 55 * ("rate" in column) + 120 * (RECIPE in column) for column in columns},
        "runsHiddenMode": "SHOW_ALL" if groups else "FIRST_20_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,  # else the page sorts the sections by name
        "autoRefreshEnabled": True,
        "hideEmptyCharts": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "groupBy": grouped,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": averaged,
        "compareRunSections": [
            _section("truth", "True preference"),
            _section("judged", "Judge"),
            _section("training", "Training"),
            _section("speed", "Speed and memory"),
        ],
        "compareRunCharts": [
            _scatter("true-kl", "truth", "true_win_rate/sft"),
            *_bars("true", "truth", "true_win_rate/sft", ends),
            _scatter("kl", "judged", "win_rate/sft"),
            *_bars("judged", "judged", "win_rate/sft", ends),
            *(_line(name, "training", f"{CURVE}{name}") for name in (*BETAS, *TRAINED)),
            *(_line(name, "speed", f"2_speed/{name}") for name in SPEED),
        ],
    }


def _section(key: str, name: str, height: int = 340) -> dict[str, Any]:
    shown = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return {"uuid": key, "name": name, "columns": 2, "cardHeight": height, **shown}


def _card(key: str, section: str, kind: str, **content: Any) -> dict[str, Any]:
    shared = {"deleted": False, "isGenerated": False, "runsCountToCompare": MOST_RUNS}
    return {"uuid": key, "metricSectionId": section, "type": kind, **shared, **content}


def _scatter(key: str, section: str, rate: str, kl: str = KL) -> dict[str, Any]:
    axes = {"xaxis": {"key": kl, "type": "METRIC"}, "yaxis": {"key": rate, "type": "METRIC"}}
    return _card(key, section, "SCATTER", **axes)


def _bars(key: str, section: str, rate: str, ends: Iterable[str]) -> list[dict[str, Any]]:
    """The page draws no error bars: the rate and the `ends` of its interval, as a chart of bars each."""
    return [_card(f"{key}{end}", section, "BAR", metricKey=f"{rate}{end}") for end in ends]


def _line(key: str, section: str, metric: str) -> dict[str, Any]:
    axes = {"xAxisKey": "step", "xAxisScaleType": "linear", "selectedXAxisMetricKey": "", "scaleType": "linear"}
    values = {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "yAxisKey": "metric",
        "yAxisExpressions": [],
    }
    drawn = {"lineSmoothness": 0, "range": {}, "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
    return _card(key, section, "LINE", **axes, **values, **drawn)
