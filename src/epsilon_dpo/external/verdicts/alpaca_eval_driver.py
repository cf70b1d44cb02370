"""Runs in the environment of alpaca_eval, which this project itself does not import.

    python alpaca_eval_driver.py SETTINGS.json

It does what `alpaca_eval evaluate` does, from local files only: no dataset script, no download of df_gamed.csv, nothing
written into site-packages.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path

import alpaca_eval
import openai
import yaml
from alpaca_eval import annotators, constants
from alpaca_eval.decoders import openai as decoder
from alpaca_eval.metrics import glm_winrate

ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
SOME = 10  # refused questions, with none answered: it is not what they are about
# What a 403 says that is about one question: as in judging/judges/llm_endpoint.py, which cannot be imported here.
FLAGGED = frozenset({"content_filter", "content_policy_violation", "data_inspection_failed"})
FLAGGING = (
    "your prompt was flagged", "request was flagged", "content was flagged",
    "limited access to this content for safety reasons", "your input was flagged",
    "output blocked by content filtering policy", "content management policy", "content exists risk",
    "content violates usage guidelines",
)  # fmt: skip
AT_ONCE = 32  # verdicts between two writes of the cache, which a failure therefore loses at most


class Annotator(annotators.PairwiseAnnotator):
    """The tool's own, whose cache is whole at every moment: its `save` writes all that was paid for over itself."""

    def save(self, path: str | Path | None = None) -> None:
        whole = Path(path or self.caching_path)
        super().save(partial_of(whole))
        publish(partial_of(whole), whole)


def main(settings: dict) -> None:
    work = Path(settings["work"])
    cache = work / "annotations_cache.json"
    kept = []
    if cache.exists():  # verdicts that could not be read are asked for again
        kept = [row for row in _verdicts(cache) if row["preference"] not in (None, -1)]
        if kept:
            partial_of(cache).write_text(json.dumps(kept))
            publish(partial_of(cache), cache)
        else:
            cache.unlink()
    failed: list[str] = []
    decoder._openai_completion_helper = forgiving(decoder._openai_completion_helper, failed, kept)
    metric, metric_kwargs = "win_rate", None
    if settings["df_gamed"] is not None:
        glm_winrate.hf_hub_download = lambda **_: settings["df_gamed"]
        metric, metric_kwargs = "length_controlled_winrate", {"save_weights_dir": None}
    alpaca_eval.evaluate(
        model_outputs=_outputs(settings["model_outputs"]),
        reference_outputs=_outputs(settings["reference_outputs"]),
        annotators_config=str(annotator(settings["model"], work)),
        name=settings["name"],
        precomputed_leaderboard=None,
        output_path=work,
        fn_metric="get_winrate" if metric == "win_rate" else "get_length_controlled_winrate",
        metric_kwargs=metric_kwargs,
        sort_by=metric,
        caching_path=cache,
        annotation_kwargs={"chunksize": AT_ONCE},
        Annotator=Annotator,
        is_return_instead_of_print=True,
    )
    (work / "failed.json").write_text(json.dumps(failed))


def forgiving(
    ask: Callable[..., list[dict]], failed: list[str], kept: Sequence[dict] = ()
) -> Callable[..., list[dict]]:
    """The tool's call. At one question that the endpoint refuses (a filter, a context that is too short) its exception
    would end all; that question has no verdict then, as the tool has it after ten tries that met a limit of rate.

    Where it refuses the first ten, it is the settings that it refuses, and its exception ends all. So do ten answers
    without log-probs, of which the tool would make no verdict after it had paid for all.

    Args:
        failed: takes why, for each question without an answer.
        kept: verdicts of earlier runs, which the settings got as well.
    """
    answered = [*kept[:1]]  # one is enough to know

    @wraps(ask)
    def asked(batch: tuple, **settings: object) -> list[dict]:
        try:
            answers = ask(batch, **settings)
        except (openai.BadRequestError, openai.PermissionDeniedError) as error:
            moderated = isinstance(error, openai.BadRequestError) or is_flagged(error.body)
            failed.append(str(error))
            if not moderated or (not answered and len(failed) >= SOME):
                raise
            return [{"text": "", "total_tokens": 0}] * len(batch[0])
        failed.extend("ten tries hit the rate limit" for answer in answers if answer["text"] == "")
        answered.extend(answer for answer in answers if answer["text"] != "")
        if not kept and len(answered) >= SOME and not any(answer.get("logprobs") for answer in answered):
            raise ValueError(
                f"none of the judge's first {SOME} answers holds log-probs: use one that gives top_logprobs"
            )
        return answers

    return asked


def is_flagged(body: object) -> bool:
    """Whether this body of a 403 refuses a question for what it is about, so that others are answered.

    The exception's own text has no more than a message, of the body of some providers nothing.
    """
    behind = body.get("metadata") if isinstance(body, dict) else None
    behind = behind if isinstance(behind, dict) else {}
    if "flagged_input" in behind or str(behind.get("error_type")) in FLAGGED:
        return True
    found = body[0] if isinstance(body, list) and body else body
    found = found.get("error", found) if isinstance(found, dict) else found
    message = found.get("message") if isinstance(found, dict) else found
    said = f"{message} {behind.get('raw')}".lower()
    return any(phrase in said for phrase in FLAGGING)


def _outputs(path: str) -> list[dict]:
    """As they are: the tool's own reading, by pandas, makes 7 of every "007" where all answers are numbers."""
    return json.loads(Path(path).read_text("utf-8"))


def partial_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def publish(partial: Path, path: Path) -> None:
    """Let `partial` become `path` in one step; a kill or a full disk leaves the one or the other."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def _verdicts(cache: Path) -> list[dict]:
    try:
        return json.loads(cache.read_text("utf-8"))
    except ValueError as error:
        sys.exit(
            f"{cache} is damaged and no JSON ({error}); repair it by hand, or delete it to ask for all verdicts again"
        )


def annotator(model: str, work: Path) -> Path:
    """AlpacaEval 2's annotator, its prompt unchanged, with `model` as the judge."""
    config = yaml.safe_load((constants.EVALUATORS_CONFIG_DIR / ANNOTATOR / "configs.yaml").read_text())
    entry = config[ANNOTATOR]
    entry["prompt_template"] = str(constants.EVALUATORS_CONFIG_DIR / entry["prompt_template"])
    entry["completions_kwargs"] |= {"model_name": model, "requires_chatml": True}
    path = work / ANNOTATOR / "configs.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
