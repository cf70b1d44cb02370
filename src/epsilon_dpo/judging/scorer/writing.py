"""Stage `scorer` in one call: a folder of out/scorer for each method, from which its answers can be scored.

The folder of a method that learns from given pairs always has the same bytes, and so has that of an online one while no
scorer is asked for. align@RUN depends on the folder of its method: another scorer trains the online runs again and no
other, and so does a change of the code that only they need (code.py). Each online method has its own copy of a judge,
since each folder must be whole.
"""

import shutil
from array import array
from collections.abc import Iterator
from pathlib import Path

from epsilon_dpo.judging.scorer.code import MADE_WITH, made_with
from epsilon_dpo.judging.scorer.params import Scorer
from epsilon_dpo.methods.registry import method_names, online_method_names
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import JsonlFile, Row, count_lines, read_json, write_json, write_jsonl

SETTINGS, JUDGE, METRICS = "scorer.json", "judge", ("metrics.json", "metrics.jsonl")
PAIRWISE_KINDS = ("pairrm", "llm")  # of judge.json


def prompt_file(split: str) -> str:
    """Rows {id, prompt_ids, prompt}: the first pair of each distinct prompt of a split."""
    return f"{split}_prompts.jsonl"


def write_scorers(config: Scorer | None, pairs: Path, validated: Path, judge: Path, out: Path) -> dict[str, int]:
    """A folder in `out` for each method; the online ones' hold the scorer of `config`, unless it is None.

    Returns, raises: as `write_scorer`, whose arguments the others are; no counts if there is no scorer.
    """
    first, *others = online_method_names()
    for method in method_names():
        (out / method).mkdir()
        if config is None or method not in (first, *others):
            write_json(out / method / SETTINGS, {"source": None})
    if config is None:
        return {}
    counts = write_scorer(config, pairs, validated, judge, out / first)
    for method in others:
        shutil.copytree(out / first, out / method, dirs_exist_ok=True)
    return counts


def write_scorer(config: Scorer, pairs: Path, validated: Path, judge: Path, out: Path) -> dict[str, int]:
    """Write the scorer of `config` to `out`, with a copy of the judge if it is one, and the prompts of `pairs`.

    Args:
        pairs: out/pairs; validated: out/validate; judge: out/teacher.

    Returns:
        the number of distinct prompts by split.

    Raises:
        UserError: the data have no true reward, or the judge only compares answers.
    """
    if config.source == "true_reward" and not read_json(validated / "dataset.json")["true_reward"]:
        raise UserError(
            "params.yaml: scorer.source: true_reward needs data whose reward is known, and these come from people; "
            "set it to judge."
        )
    if config.source == "judge":
        kind = read_json(judge / "judge.json")["kind"]
        if kind in PAIRWISE_KINDS:
            raise UserError(
                f"params.yaml: scorer.source: judge needs a judge that gives one answer a number, and a judge of kind "
                f"{kind} only compares two; choose one with a score of its own, such as source: reward_model, in "
                "the block teacher, or in judge where that is null."
            )
        shutil.copytree(judge, out / JUDGE, ignore=shutil.ignore_patterns(*METRICS))
    counts = {}
    for split in ("train", "eval"):
        write_jsonl(out / prompt_file(split), _distinct_prompts(pairs, validated, split))
        counts[split] = count_lines(out / prompt_file(split))
    write_json(out / SETTINGS, config.model_dump())
    write_json(out / MADE_WITH, made_with())
    return counts


def _distinct_prompts(pairs: Path, validated: Path, split: str) -> Iterator[Row]:
    """In the order of the pairs. Texts of on-policy pairs are those that stage `pairs` wrote beside them."""
    on_policy = split == "train" and read_json(pairs / "pairs.json")["source"] == "on_policy"
    texts = pairs / "train_text.jsonl" if on_policy else validated / f"{split}.jsonl"
    prompts = {row["id"]: row["prompt"] for row in JsonlFile(texts)}
    found = set[bytes]()
    for row in JsonlFile(pairs / f"{split}.jsonl"):
        ids = array("i", row["prompt_ids"]).tobytes()  # a tenth of a tuple of ints
        if ids not in found:
            found.add(ids)
            yield {"id": row["id"], "prompt_ids": row["prompt_ids"], "prompt": prompts[row["id"]]}
