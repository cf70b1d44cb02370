"""What the MLflow UI shows of the experiment: a note, and a saved view of the comparison."""

import json

VIEW = "comparison"
FILTER = "tags.in_report = 'true'"
COLUMNS = (
    "tags.`method`",
    "params.`run.beta`",
    "metrics.`win_rate/chosen`",
    "metrics.`win_rate/sft`",
    "metrics.`true_win_rate/sft`",
    "metrics.`kl_fwd_rb`",
    "metrics.`eval_rewards/accuracies`",
)
NOTE = f"""One run per stage execution. The rows `align@…` carry win rate and KL of the policy that they made.

The comparison of the last report: filter by `{FILTER}`, or put
`?viewStateShareKey={VIEW}&workflowType=machine_learning` behind `/runs` in the address.
"""


def experiment_tags() -> dict[str, str]:
    """Tags that the UI reads: its kind (training, not chats), the note, the saved view that a share link names."""
    view = {
        "searchFilter": FILTER,
        "orderByKey": "metrics.`win_rate/chosen`",
        "orderByAsc": False,
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
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }
