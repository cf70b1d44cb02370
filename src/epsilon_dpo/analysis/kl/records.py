"""The terms whose means are the estimates (estimators.py): sums over an answer's tokens under policy and reference.

Tokens: the answer's with its stop token, no padding; an answer that was cut (at sample.max_new_tokens or
tokens.max_length) keeps its partial sum. Log-probs are of temperature 1 in float32, over the whole vocabulary. Answers
sampled at another temperature, or under top-p and the like, visit other prefixes: then no mean over them is an estimate
of a KL.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from epsilon_dpo.analysis.kl.estimators import (
    CHOSEN,
    POLICY,
    REFERENCE,
    Sums,
    described,
    estimators_of,
    sampled_under,
    summary,
)
from epsilon_dpo.analysis.kl.params import KL
from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.models.logps.head import completion_logps
from epsilon_dpo.models.logps.padding import pad_right
from epsilon_dpo.models.policy.folder import load_policy
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row, read_json, read_jsonl, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.journal import Journal
from epsilon_dpo.pipeline.stage.runs import FINAL, make_place, policy_paths
from epsilon_dpo.pipeline.stage.runtime import on_device

Ids = list[int]


def kl_records(
    policy: Path,
    reference: Path,
    reference_samples: list[Row],
    policy_samples: list[Row],
    pairs: list[Row],
    params: KL,
    journal: Journal | None = None,
    of_policy: str = "",
) -> list[Row]:
    """One record per answer, set by set, in the order given.

    Args:
        policy, reference: model folders; the reference's holds the tokenizer.
        reference_samples, policy_samples: rows of out/reference and out/sample/RUN.
        pairs: rows of out/pairs/eval.jsonl.
        journal: takes the batches of answers that are done, under `of_policy`, which tells this policy apart.

    Returns:
        `answers` (whose: estimators.REFERENCE, POLICY or CHOSEN), `id` of the row, `prompt_id` (the row's own, or else
        the id of the first row with the same prompt), the values of the estimators on these answers, `tokens`,
        `truncated` (no stop token at the end).
    """
    stop_token = load_tokenizer(reference).eos_token_id
    policy_model, reference_model = (on_device(load_policy(folder, torch.float32)) for folder in (policy, reference))
    sets = {
        REFERENCE: (reference_samples, "response_ids"),
        POLICY: (policy_samples, "response_ids"),
        CHOSEN: (pairs, "chosen_ids"),
    }
    records = []
    for whose, (rows, field) in sets.items():
        answers = [(row["prompt_ids"], row[field]) for row in rows]
        sums = answer_sums(
            policy_model,
            reference_model,
            answers,
            params.batch_size,
            params.token_chunk,
            title=f"kl, {whose}",
            journal=journal,
            name=[of_policy, whose],
        )
        names = _prompt_names(rows, [prompt for prompt, _ in answers])
        for row, name, (_, ids), found in zip(rows, names, answers, sums, strict=True):
            stopped = row["finish_reason"] == "stop" if "finish_reason" in row else ids[-1:] == [stop_token]
            records.append(
                {"answers": whose, "id": row["id"], "prompt_id": name}
                | {estimator.name: estimator.of(found) for estimator in estimators_of(whose)}
                | {"tokens": len(ids), "truncated": not stopped}
            )
    return records


def kl_run(
    aligned: Path,
    sampled: Path,
    reference: Path,
    reference_samples: Path,
    pairs: Path,
    params: KL,
    confidence: float,
    out: Path,
    journal: Journal | None = None,
) -> tuple[dict[str, float], Row]:
    """Write records.jsonl and metrics.json of every policy of a run, each at the place below `out` that
    it has below `aligned`, and estimators.json.

    Args:
        aligned, sampled: out/align/RUN and out/sample/RUN.
        reference: model folder; the initial reference, also of a method that moves its own.
        reference_samples, pairs: out/reference/samples.jsonl and out/pairs/eval.jsonl.
        journal: takes what is done of each policy.

    Returns:
        of the final policy the metrics of estimators.summary; and `sample_temperature`, `policy_sha256` and, if the
        answers are not the policies' own, `sampled_under`. Its metrics.json holds both.

    Raises:
        UserError: `sampled` holds answers of another policy, or as estimators.summary.
    """
    found = {}
    for place in policy_paths(aligned):
        policy = aligned / place / "model"
        policy_sha256 = digest(policy)
        sampling = read_json(sampled / place / "metrics.json")
        if sampling["policy_sha256"] != policy_sha256:
            raise UserError(f"{sampled / place} holds the answers of another policy than {policy}; run `dvc repro`.")
        records = kl_records(
            policy,
            reference,
            reference_samples=read_jsonl(reference_samples),
            policy_samples=read_jsonl(sampled / place / "samples.jsonl"),
            pairs=read_jsonl(pairs),
            params=params,
            journal=journal,
            of_policy=policy_sha256,
        )
        metrics = summary(records, confidence)
        facts = {"sample_temperature": sampling["temperature"], "policy_sha256": policy_sha256}
        if under := sampled_under(sampling["temperature"], sampling.get("logits", {})):
            facts["sampled_under"] = under
        folder = make_place(out, place)
        write_jsonl(folder / "records.jsonl", records)
        write_json(folder / "metrics.json", {**metrics, **facts})
        found[place] = metrics, facts
    write_json(out / "estimators.json", described(confidence, found[FINAL][1].get("sampled_under", "")))
    return found[FINAL]


def answer_sums(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    answers: list[tuple[Ids, Ids]],
    batch_size: int,
    token_chunk: int,
    title: str = "kl",
    journal: Journal | None = None,
    name: Sequence[str] = (),
) -> list[Sums]:
    """The sums of each answer, in the order given.

    Args:
        answers: ids of prompt and answer.
        batch_size: answers at once.
        token_chunk: answer tokens whose logits exist at once.
        title: label of the progress bar.
        journal: takes the batches that are done, under `name`, which tells these answers and models apart.
    """
    journal = journal or Journal()
    by_length = sorted(range(len(answers)), key=lambda i: -len(answers[i][0]) - len(answers[i][1]))
    found: dict[int, Sums] = {}
    with tqdm(total=len(answers), desc=title, unit="answer") as bar:
        for start in range(0, len(answers), batch_size):
            rows = by_length[start : start + batch_size]
            compute = partial(_columns, policy, reference, [answers[i] for i in rows], token_chunk)
            columns = journal.of(["kl", *name, start], compute)
            found |= {i: Sums(*sums) for i, *sums in zip(rows, *columns, strict=True)}
            bar.update(len(rows))
    return [found[i] for i in range(len(answers))]


def _columns(
    policy: PreTrainedModel, reference: PreTrainedModel, answers: list[tuple[Ids, Ids]], token_chunk: int
) -> list[list[float]]:
    """The fields of `Sums`, each of all answers of a batch."""
    padded = pad_right(answers, pad_token_id=0)  # masked, so any id will do
    batch = {name: x.to(policy.device) for name, x in padded.items()}
    logps = completion_logps(
        policy, reference, batch["input_ids"], batch["attention_mask"], batch["completion_mask"], token_chunk
    )._asdict()
    return [logps[name].double().sum(1).tolist() for name in Sums._fields]


def _prompt_names(rows: list[Row], prompts: list[Ids]) -> list[str]:
    first: dict[tuple[int, ...], str] = {}
    return [
        row.get("prompt_id") or first.setdefault(tuple(prompt), row["id"])
        for row, prompt in zip(rows, prompts, strict=True)
    ]
