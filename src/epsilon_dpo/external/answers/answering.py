"""A policy's answers to a benchmark's questions, turn by turn: a later turn sees the policy's own earlier answers.

They are sampled as everywhere in this project (sampling.py): the random numbers belong to the question and its turn, so
neither batch size nor order changes an answer, and nothing but the temperature shapes the distribution (top-p 1).
"""

from collections.abc import Callable
from pathlib import Path

from epsilon_dpo.data.tokenizer.folder import load_tokenizer
from epsilon_dpo.data.tokens.tokenisation import Messages, prompt_ids
from epsilon_dpo.external.answers.params import Decoding, DecodingByCategory
from epsilon_dpo.external.benchmarks.questions import Question
from epsilon_dpo.external.benchmarks.schemas import Row
from epsilon_dpo.models.policy.folder import load_policy
from epsilon_dpo.pipeline.machine.device import on_device
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.sampling.answers.drawing import sample, seed_of
from epsilon_dpo.sampling.answers.params import Logits, Sampler, Stop

# In place of temperature 0: the noise then decides only between tokens whose logits differ by less than 1e-7.
GREEDY = 1e-9


def answer(policy: Path, questions: list[Question], decoding: Decoding | DecodingByCategory, seed: int) -> list[Row]:
    """The dialogues that the policy in `policy` (model and tokenizer) holds, in the order of `questions`.

    Returns:
        `id` and `turns`, each with `prompt` (text), `response` (text without special tokens, stripped), `response_ids`
        (with the stop token if it was reached) and `finish_reason`: `stop` or `length`.

    Raises:
        UserError: a category has no temperature, or a dialogue and `max_new_tokens` exceed the model's context.
    """
    temperature = _temperatures(questions, decoding)
    tokenizer = load_tokenizer(policy)
    model = on_device(load_policy(policy))
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    held: dict[str, list[Row]] = {question.id: [] for question in questions}
    for turn in range(max(len(question.turns) for question in questions)):
        asked = [question for question in questions if len(question.turns) > turn]
        prompts = {question.id: prompt_ids(tokenizer, _messages(question, held[question.id])) for question in asked}
        _fit(prompts, decoding.max_new_tokens, context)
        completions: dict[str, list[int]] = {}
        for degrees in sorted({temperature(question) for question in asked}):
            group = {question.id: prompts[question.id] for question in asked if temperature(question) == degrees}
            seeds = {id_: seed_of(seed, "policy", f"{id_}/{turn}") for id_ in group}
            completions |= sample(model, tokenizer, group, seeds, _sampling(degrees, decoding))
        for question in asked:
            ids = completions[question.id]
            held[question.id].append(
                {
                    "prompt": question.turns[turn],
                    "response": str(tokenizer.decode(ids, skip_special_tokens=True)).strip(),
                    "response_ids": ids,
                    "finish_reason": "stop" if ids[-1] == tokenizer.eos_token_id else "length",
                }
            )
    return [{"id": question.id, "turns": held[question.id]} for question in questions]


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
        messages += [{"role": "user", "content": turn["prompt"]}, {"role": "assistant", "content": turn["response"]}]
    return [*messages, {"role": "user", "content": question.turns[len(held)]}]


def _fit(prompts: dict[str, list[int]], max_new_tokens: int, context: int | None) -> None:
    longest = max(prompts, key=lambda id_: len(prompts[id_]))
    if context is not None and len(prompts[longest]) + max_new_tokens > context:
        raise UserError(
            f"The dialogue of question {longest} has {len(prompts[longest])} tokens, which leaves less than "
            f"max_new_tokens = {max_new_tokens} of the model's {context} positions; lower it under decoding in "
            "external/params.yaml."
        )


def _sampling(temperature: float, decoding: Decoding | DecodingByCategory) -> Sampler:
    return Sampler(
        samples_per_prompt=1,
        temperature=max(temperature, GREEDY),
        logits=Logits(top_p=1.0, top_k=None, min_p=None, repetition_penalty=1.0),
        stop=Stop(tokens=[], strings=[]),
        max_new_tokens=decoding.max_new_tokens,
        batch_size=decoding.batch_size,
        backend="transformers",
    )
