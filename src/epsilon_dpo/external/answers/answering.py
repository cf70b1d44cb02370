"""A policy's answers to a benchmark's questions, turn by turn: a later turn sees the policy's own earlier answers.

They are sampled and ended as everywhere in this project (sampling/answers/): the random numbers belong to the question
and its turn, so neither batch size nor order changes an answer, and nothing but the temperature shapes the distribution
(top-p 1).
"""

from collections.abc import Callable
from pathlib import Path

from epsilon_dpo.data.tokens.positions import Positions, positions_of
from epsilon_dpo.data.tokens.tokenisation import Messages, prompt_ids
from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.external.answers.params import Decoding, DecodingByCategory
from epsilon_dpo.external.benchmarks.questions import Question
from epsilon_dpo.external.benchmarks.schemas import Row
from epsilon_dpo.models.policy.folder import load_policy, policy_config
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.runtime import on_device
from epsilon_dpo.sampling.answers.drawing import sample, seed_of
from epsilon_dpo.sampling.answers.params import GREEDY, Logits, Sampler
from epsilon_dpo.sampling.decoding.params import Stop
from epsilon_dpo.sampling.decoding.stops import Stops

NOTHING = " "  # for an answer of no text, which Mistral's later templates refuse as a turn; most trim it away


def answer(
    policy: Path,
    questions: list[Question],
    decoding: Decoding | DecodingByCategory,
    stop: Stop,
    seed: int,
    scratch: Path | None = None,
) -> list[Row]:
    """The dialogues that the policy in `policy` (model and tokenizer) holds, in the order of `questions`.

    Args:
        stop: what ends an answer beside the tokenizer's eos token.
        scratch: folder of the execution, with the state from which a killed one resumes; None: nothing is kept.

    Returns:
        `id` and `turns`, each with `prompt` (text), `response` (text without special tokens and stop, stripped),
        `response_ids` (with the stop token if it was reached) and `finish_reason`: `stop` or `length`.

    Raises:
        UserError: a category has no temperature, a dialogue and `max_new_tokens` exceed the model's context (before
            anything is sampled, where the questions alone do), or `stop` names what is no stop
            (sampling/decoding/stops.py).
    """
    temperature = _temperatures(questions, decoding)
    tokenizer = load_tokenizer(policy)
    stops = Stops(tokenizer, stop)
    positions = positions_of(policy_config(policy))
    shortest = {
        question.id: prompt_ids(tokenizer, _messages(question, _empty_answers(question))) for question in questions
    }
    _fit(shortest, decoding.max_new_tokens, positions)
    model = on_device(load_policy(policy))
    held: dict[str, list[Row]] = {question.id: [] for question in questions}
    for turn in range(max(len(question.turns) for question in questions)):
        asked = [question for question in questions if len(question.turns) > turn]
        prompts = {question.id: prompt_ids(tokenizer, _messages(question, held[question.id])) for question in asked}
        _fit(prompts, decoding.max_new_tokens, positions)
        completions: dict[str, list[int]] = {}
        for degrees in sorted({temperature(question) for question in asked}):
            group = {question.id: prompts[question.id] for question in asked if temperature(question) == degrees}
            seeds = {id_: seed_of(seed, "policy", f"{id_}/{turn}") for id_ in group}
            params, name = _sampling(degrees, decoding, stop), f"answers-{turn}-{degrees}"
            completions |= sample(model, tokenizer, group, seeds, params, scratch, name)
        for question in asked:
            held[question.id].append(_turn(question.turns[turn], completions[question.id], stops))
    return [{"id": question.id, "turns": held[question.id]} for question in questions]


def _turn(prompt: str, ids: list[int], stops: Stops) -> Row:
    return {
        "prompt": prompt,
        "response": stops.text(ids),
        "response_ids": ids,
        "finish_reason": "stop" if stops(ids) else "length",
    }


def _temperatures(questions: list[Question], decoding: Decoding | DecodingByCategory) -> Callable[[Question], float]:
    if isinstance(decoding, Decoding):
        return lambda _: decoding.temperature
    for question in questions:
        if question.row["category"] not in decoding.temperature:
            raise UserError(
                f"Question {question.id} is of the category {question.row['category']}, which has no temperature; add "
                "it to decoding.mt_bench.temperature in external/params.yaml."
            )
    return lambda question: decoding.temperature[question.row["category"]]


def _messages(question: Question, held: list[Row]) -> Messages:
    """The dialogue up to the next answer."""
    messages = []
    for turn in held:
        said = turn["response"] or NOTHING
        messages += [{"role": "user", "content": turn["prompt"]}, {"role": "assistant", "content": said}]
    return [*messages, {"role": "user", "content": question.turns[len(held)]}]


def _empty_answers(question: Question) -> list[Row]:
    """The shortest answers to all turns but the last."""
    return [{"prompt": prompt, "response": ""} for prompt in question.turns[:-1]]


def _fit(prompts: dict[str, list[int]], max_new_tokens: int, positions: Positions | None) -> None:
    longest = max(prompts, key=lambda id_: len(prompts[id_]))
    if positions is not None and len(prompts[longest]) + max_new_tokens > positions.count:
        raise UserError(
            f"The dialogue of question {longest} has {len(prompts[longest])} tokens, which leaves less than "
            f"max_new_tokens = {max_new_tokens} of {positions}; lower it under decoding in external/params.yaml."
        )


def _sampling(temperature: float, decoding: Decoding | DecodingByCategory, stop: Stop) -> Sampler:
    return Sampler(
        samples_per_prompt=1,
        temperature=max(temperature, GREEDY),
        logits=Logits(top_p=1.0, top_k=None, min_p=None, repetition_penalty=1.0),
        stop=stop,
        max_new_tokens=decoding.max_new_tokens,
        batch_size=decoding.batch_size,
        backend="transformers",
    )
