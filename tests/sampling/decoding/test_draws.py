"""Answers of a model in memory: those that the sampler of the stages draws with the same random numbers."""

from transformers import AutoModelForCausalLM

from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.sampling.answers.drawing import sample
from epsilon_dpo.sampling.answers.params import Logits, Sampler
from epsilon_dpo.sampling.decoding.draws import Draw
from epsilon_dpo.sampling.decoding.params import Stop

PROMPTS = [[1, 5, 9], [1, 7], [1, 20, 21, 22], [1, 5, 9], [1, 30]] * 8
SEEDS = [100 + number for number in range(len(PROMPTS))]


def test_they_are_those_of_the_stage_and_no_batch_changes_them(sft_folder):
    folder = sft_folder()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), load_tokenizer(folder)
    drawn = {size: Draw(tokenizer, 20, size)(model.eval(), PROMPTS, SEEDS) for size in (3, len(PROMPTS))}
    neutral = Logits(top_p=1.0, top_k=None, min_p=None, repetition_penalty=1.0)
    params = Sampler(
        **{"samples_per_prompt": 1, "temperature": 1.0, "logits": neutral, "stop": Stop(tokens=[], strings=[])},
        **{"max_new_tokens": 20, "batch_size": 7, "backend": "transformers"},
    )
    names = [str(number) for number in range(len(PROMPTS))]
    by_stage = sample(
        model, tokenizer, dict(zip(names, PROMPTS, strict=True)), dict(zip(names, SEEDS, strict=True)), params
    )
    for answers in drawn.values():
        assert [answer.ids for answer in answers] == [by_stage[name] for name in names]
    assert {answer.ended for answer in drawn[3]} == {True, False}
    for answer in drawn[3]:
        assert answer.ended == (answer.ids[-1] == 2) and (answer.ended or len(answer.ids) == 20)
        assert answer.text == tokenizer.decode(answer.ids, skip_special_tokens=True).strip()
    assert drawn[3][0].ids != drawn[3][3].ids, "the same prompt, other random numbers"
