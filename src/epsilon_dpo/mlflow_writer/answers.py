"""A policy's answers with what was said of them, as the table that MLflow's page puts side by side."""

import json
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl

TABLE = "answers.json"
TABLE_TAG = "mlflow.loggedArtifacts"  # by which the page finds tables
ANSWERS_TAG = "answers_sha256"  # of what the table shows
TABLES = json.dumps([{"path": TABLE, "type": "table"}])  # its value
COLUMNS = ("prompt", "answer", "against chosen", "against sft", "truth against sft")
PROMPTS, CHARACTERS = 100, 1000
UNKNOWN = "—"
VERDICTS = {1.0: "won", 0.5: "tied", 0.0: "lost", None: UNKNOWN}
REFUSED = "not judged (refused)"  # counted as a tie, which nobody found


def table(run: str, policy_sha256: str, out: Path = Path("out")) -> dict[str, Any] | None:
    """The first PROMPTS answers of `run` in pandas' form `split`, which the page reads; None: they are not there, or
    are another policy's by now.

    The same prompts in the same order for every run: the page puts equal ones into one row. It shows one column of each
    run, so the verdicts stand below the answer, too.
    """
    try:
        for stage in ("sample", "score"):
            if read_json(out / stage / run / "metrics.json")["policy_sha256"] != policy_sha256:
                return None
        samples = read_jsonl(out / "sample" / run / "samples.jsonl")
        records = read_jsonl(out / "score" / run / "records.jsonl")
    except (OSError, UserError, ValueError, KeyError):
        return None
    verdicts = {(row["id"], row["opponent"]): row for row in records if row.get("answer") == "run"}
    data = []
    for sample in samples[:PROMPTS]:
        over_chosen, over_sft = (verdicts.get((sample["id"], opponent), {}) for opponent in ("chosen", "sft"))
        chosen, sft, truth = _verdict(over_chosen), _verdict(over_sft), VERDICTS[over_sft.get("true_win")]
        known = "" if truth == UNKNOWN else f"; truth: {truth}"
        verdict = f"[judge: {chosen} against chosen, {sft} against SFT{known}]"
        prompt = "\n".join(turn["content"] for turn in sample["prompt"])[:CHARACTERS]
        data.append([prompt, f"{sample['response'][:CHARACTERS]}\n\n{verdict}", chosen, sft, truth])
    return {"columns": list(COLUMNS), "data": data}


def _verdict(record: dict[str, Any]) -> str:
    return REFUSED if record.get("refused") else VERDICTS[record.get("win")]
