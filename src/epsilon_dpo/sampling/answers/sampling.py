"""Prompts to answers: exact temperature sampling whose random numbers belong to the prompt and not to the batch.

By the Gumbel-max trick, argmax(logits / T + G) with standard Gumbel noise G is a draw from softmax(logits / T)
(Maddison, Tarlow and Minka, 2014). The noise of a row comes from its own generator, so neither batch size nor order
changes it. What they can change is the logits' rounding (about 1e-6), which decides a draw only where two tokens are
that close.

Nothing but params.yaml shapes the distribution: a model's own generation_config (top-p, penalties) is not used.
"""

from pathlib import Path

from transformers import PreTrainedConfig

from epsilon_dpo.data.prompts.prompt_ids import prompt_id
from epsilon_dpo.data.tokens.positions import positions_of
from epsilon_dpo.data.tokens.tokenisation import prompt_ids
from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.models.policy.folder import merged_policy, policy_config
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.sampling.answers.drawing import Stream, seed_of
from epsilon_dpo.sampling.answers.params import Sampler
from epsilon_dpo.sampling.answers.shares import sample_in_shares
from epsilon_dpo.sampling.answers.vllm import python_of_vllm, sample_with_vllm
from epsilon_dpo.sampling.decoding.stops import Stops


def select(rows: list[Row], turns: str, max_prompts: int | None) -> list[Row]:
    """The rows to answer, in the order given.

    Args:
        rows: those of out/validate/eval.jsonl.
        turns: `single` keeps prompts of exactly one user message and no assistant's; `all` keeps all.
        max_prompts: keep only this many distinct prompts, those with the smallest id (a choice that favours no part of
            the file), each with all its rows; None: all.

    Raises:
        UserError: fewer than two prompts are left, too few for an interval.
    """
    kept = [row for row in rows if turns == "all" or _is_single_turn(row["prompt"])]
    distinct = {prompt_id(row["prompt"]) for row in kept}
    if len(distinct) < 2:
        remedy = "fetch other data" if turns == "all" else "set it to all, or fetch other data"
        raise UserError(
            f"Of the evaluation rows' different prompts {len(distinct)} fit sample.turns = {turns}, and an interval "
            f"needs two; {remedy}."
        )
    chosen = frozenset(sorted(distinct)[:max_prompts])
    return [row for row in kept if prompt_id(row["prompt"]) in chosen]


def answer(
    folder: Path,
    rows: list[Row],
    params: Sampler,
    seed: int,
    threads: int,
    stream: Stream,
    scratch: Path | None = None,
) -> list[Row]:
    """Samples of the policy in `folder` (model and tokenizer), `samples_per_prompt` of each row, row by row.

    Args:
        scratch: folder of the execution, where the state is kept from which a killed one resumes; None: nothing is
            kept. vLLM keeps nothing.

    Returns:
        `id` (the row's and the number of the sample), `row_id`, `prompt_id`, `prompt` (messages), `chosen` (text),
        `response` (text without special tokens, stripped), `prompt_ids`, `response_ids` (with the stop token if it was
        reached) and `finish_reason`: `stop` or `length`.

    Raises:
        UserError: a process failed (shares.py, vllm.py), a prompt and `max_new_tokens` exceed the model's context, or
            `stop` names what is no stop (decoding/stops.py).
    """
    tokenizer = load_tokenizer(folder)
    stops = Stops(tokenizer, params.stop)
    asked = {f"{row['id']}/{number}": row for row in rows for number in range(params.samples_per_prompt)}
    ids = {row["id"]: prompt_ids(tokenizer, row["prompt"]) for row in rows}
    longest = max(map(len, ids.values()))
    prompts = {id_: ids[row["id"]] for id_, row in asked.items()}
    seeds = {id_: seed_of(seed, stream, id_) for id_ in asked}
    name = "sampling" if scratch is None else f"sampling-{digest(folder)[:16]}"  # a run may have several policies
    _fits(policy_config(folder), longest, params.max_new_tokens)
    if params.backend == "vllm":
        python = python_of_vllm()
        with merged_policy(folder, scratch) as merged:
            completions = sample_with_vllm(python, merged, prompts, seeds, params, stops)
    else:
        completions = sample_in_shares(folder, prompts, seeds, params, threads, scratch, name)
    return [_finished(id_, row, prompts[id_], completions[id_], stops) for id_, row in asked.items()]


def summary(samples: list[Row]) -> dict[str, float]:
    """`n`, `mean_tokens` (stop token included), `truncated_share` (max_new_tokens reached) and `empty_share`."""
    n = len(samples)
    return {
        "n": n,
        "mean_tokens": sum(len(row["response_ids"]) for row in samples) / n,
        "truncated_share": sum(row["finish_reason"] == "length" for row in samples) / n,
        "empty_share": sum(not row["response"] for row in samples) / n,
    }


def _is_single_turn(prompt: list[dict[str, str]]) -> bool:
    roles = [message["role"] for message in prompt]
    return roles.count("user") == 1 and "assistant" not in roles


def _fits(config: PreTrainedConfig, longest_prompt: int, max_new_tokens: int) -> None:
    positions = positions_of(config)
    if positions is not None and longest_prompt + max_new_tokens > positions.count:
        room = positions.count - longest_prompt
        remedy = f"set it to at most {room}" if room > 0 else "lower tokens.max_prompt_length"
        raise UserError(
            f"The longest prompt has {longest_prompt} tokens and max_new_tokens is {max_new_tokens}, together more "
            f"than {positions}; {remedy}."
        )


def _finished(id_: str, row: Row, prompt: list[int], ids: list[int], stops: Stops) -> Row:
    return {
        "id": id_,
        "row_id": row["id"],
        "prompt_id": prompt_id(row["prompt"]),
        "prompt": row["prompt"],
        "chosen": row["chosen"][0]["content"],
        "response": stops.text(ids),
        "prompt_ids": prompt,
        "response_ids": ids,
        "finish_reason": "stop" if stops(ids) else "length",
    }
