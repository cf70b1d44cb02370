"""What the MLflow UI shows of the experiment: a note, and a saved view of the comparison."""

import json

VIEW = "comparison"
SHARED_VIEW = "mlflow.sharedViewState."
FILTER = "tags.in_report = 'true'"
# The truth first, every rate with its interval: a column of rates alone is read as an order that they do not give.
COLUMNS = (
    "tags.`method`",
    "params.`run.beta`",
    "metrics.`true_win_rate/sft`",
    "metrics.`true_win_rate/sft_low`",
    "metrics.`true_win_rate/sft_high`",
    "metrics.`win_rate/sft`",
    "metrics.`win_rate/sft_low`",
    "metrics.`win_rate/sft_high`",
    "metrics.`kl_fwd_rb`",
)
NOTE = f"""One run per stage execution. The rows `align@…` carry win rate and KL of the policy that they made, with
intervals, and the places that the data leave open among the policies of the report (`place_first` to `place_last` by
the judge, `true_place_first` to `true_place_last` by the true reward): two that share places are not told apart.

The comparison of the last report: filter by `{FILTER}`, or put
`?viewStateShareKey={VIEW}&workflowType=machine_learning` behind `/runs` in the address.
"""


def experiment_tags() -> dict[str, str]:
    """Tags that the UI reads: its kind (training, not chats), the note, the saved view that a share link names."""
    view = {
        "searchFilter": FILTER,
        "orderByKey": "tags.`mlflow.runName`",  # no order by a rate: intervals may not separate the rows
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "runsHiddenMode": "FIRST_20_RUNS",
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": NOTE,
        f"{SHARED_VIEW}{VIEW}": json.dumps(view),
    }
