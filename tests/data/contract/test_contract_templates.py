"""What chat templates do to BOS, the stop token, system turns and texts, as the data contract finds it."""

import pytest
from contract_of_lists import validate
from contract_rows import NO, SYSTEM, TOKENS, YES, MakeTokenizer, Row, contract, dialogues, good, row, sides, turns
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from epsilon_dpo.data.facts.bos import BosRule
from epsilon_dpo.data.facts.rows import split_prompt
from epsilon_dpo.data.facts.survival import lost_turn
from epsilon_dpo.data.pairs.on_policy_contract import fit_to_train_on
from epsilon_dpo.pipeline.observability.errors import UserError


def gemma_with(make_tokenizer: MakeTokenizer, old: str, new: str) -> PreTrainedTokenizerFast:
    template = make_tokenizer().chat_template
    assert isinstance(template, str) and old in template
    return make_tokenizer(chat_template=template.replace(old, new))


@pytest.mark.parametrize("bos", ["", "{{ bos_token }}{{ bos_token }}"])
def test_a_template_that_writes_bos_never_or_twice_stops(make_tokenizer: MakeTokenizer, bos: str) -> None:
    tokenizer = gemma_with(make_tokenizer, "{{- bos_token -}}", bos)
    with pytest.raises(
        UserError, match=r"^4 of 4 rows of the split train fail one_bos .* 3 of 3 rows of the split eval"
    ):
        validate(dialogues(), tokenizer, TOKENS, contract(on_failure={"one_bos": "stop"}))


@pytest.mark.parametrize(
    ("bos", "sentence"),
    [
        (
            "",
            r"the chat template writes no BOS \(<bos>\), which the tokenizer puts before every other text; use a chat",
        ),
        ("{{ bos_token }}{{ bos_token }}", r"the chat template writes 2 BOS tokens \(<bos>\)"),
        ("x{{ bos_token }}", r"the chat template does not begin with the BOS \(<bos>\) that it writes"),
    ],
)
def test_a_fault_of_the_templates_bos_is_named_as_one(make_tokenizer: MakeTokenizer, bos: str, sentence: str) -> None:
    tokenizer = gemma_with(make_tokenizer, "{{- bos_token -}}", bos)
    with pytest.raises(UserError, match=sentence):
        validate(dialogues(), tokenizer, TOKENS, contract(on_failure={"one_bos": "stop"}))


def test_no_bos_is_no_fault_where_the_tokenizer_adds_none_either(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = gemma_with(make_tokenizer, "{{- bos_token -}}", "")
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    assert validate(dialogues(), tokenizer, TOKENS, contract()).dropped == []
    rule = BosRule(tokenizer)
    assert rule.writes_none and [rule.errors(ids, turns=2) for ids in ([9, 9], [rule.bos_id, 9])] == [0, 1]


def test_a_bos_that_is_the_stop_token_too(make_tokenizer: MakeTokenizer) -> None:
    """OLMo 2 and GPT-2: the same token begins a text and ends an answer."""
    template = "{{ bos_token }}{% for m in messages %}{{ m.role }}\n{{ m.content }}"
    template += "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant\n{% endif %}"
    tokenizer = make_tokenizer(bos_token="<end_of_turn>", chat_template=template)
    assert validate(dialogues(), tokenizer, TOKENS, contract()).dropped == []
    rule, stop = BosRule(tokenizer), tokenizer.eos_token_id
    assert [rule.errors(ids, turns=2) for ids in ([stop, 9, stop], [stop, stop, 9], [9, stop])] == [0, 1, 2]


# As of models that reason: what stands before </think> is cut, from every answer or from the earlier ones.
CUTS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role']=='user' %}{{ '<start_of_turn>' + m['content'] }}{% else %}"
    "{% set c = m['content'] %}{% if '</think>' in c and CONDITION %}{% set c = c.split('</think>')[-1] %}{% endif %}"
    "{{ '<start_of_turn>model' + c + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("condition", "bad", "reason"),
    [
        (
            "true",
            row("What?", "<think>No.</think> Moon"),
            "text of the chosen answer, which begins '<think>No.</think>",
        ),
        ("true", row("What?", "Moon", "<think>No.</think> No."), "text of the rejected answer, which begins '<think>"),
        (
            "not loop.last",
            sides(turns("A", "<think>B</think>C", "D", "E"), turns("A", "<think>B</think>C", "D", "F")),
            "text of turn 2 (assistant), which begins '<think>B</think>C'",
        ),
    ],
)
def test_a_text_that_the_template_cuts_is_found(
    make_tokenizer: MakeTokenizer, condition: str, bad: Row, reason: str
) -> None:
    tokenizer = make_tokenizer(chat_template=CUTS.replace("CONDITION", condition))
    outcome = validate(dialogues(bad), tokenizer, TOKENS, contract())
    assert [(entry["id"], entry["expectation"]) for entry in outcome.dropped] == [("bad", "text_survives_template")]
    assert reason in outcome.dropped[0]["reason"]
    with pytest.raises(UserError, match=r"fail text_survives_template .*; use a chat template that fits the data"):
        validate(dialogues(bad), tokenizer, TOKENS, contract(on_failure={"text_survives_template": "stop"}))


@pytest.mark.parametrize(
    ("rendered", "messages", "lost"),
    [
        ("<u>Yes<m>Yes<u>No", turns("Yes", "Yes", "No"), None),
        ("<u>Yes<u>No", turns("Yes", "Yes", "No"), 1),
        ("<u>Who?<m>Me.<u>Be kind.\n\nWhy?", [*SYSTEM[:1], *turns("Who?", "Me.", "Why?")], None),
        ("<u>Who?<m>Me.<u>Why?", [*SYSTEM[:1], *turns("Who?", "Me.", "Why?")], 0),
    ],
)
def test_turns_stand_one_after_the_other_but_for_the_systems(
    rendered: str, messages: list[dict[str, str]], lost: int | None
) -> None:
    """A text that stands there once is not found for two turns; Mistral's system turn is in the last question."""
    assert lost_turn(rendered, messages) == lost


def test_an_answer_of_a_policy_that_the_template_cuts_is_left_out(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(chat_template=CUTS.replace("CONDITION", "true"))
    pairs = [split_prompt(good("train", 1)), split_prompt(row("What?", "<think>No.</think> Moon"))]
    fit, left_out, cut = fit_to_train_on(tokenizer, pairs, TOKENS)
    assert fit == pairs[:1] and left_out == [{"id": "bad", "reason": "text_survives_template"}] and cut == 0


def test_white_space_at_the_ends_of_a_turn_is_no_text(make_tokenizer: MakeTokenizer) -> None:
    """Gemma's template trims."""
    assert validate(dialogues(row(" What? ", "Good\n\n", " No.")), make_tokenizer(), TOKENS, contract()).dropped == []


WITH_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m.role != 'system' or KEEP %}<start_of_turn>{{ m.role }}\n"
    "{{ m.content }}{% if m.role == 'assistant' %}<end_of_turn>{% endif %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)


def test_a_system_turn_goes_through_where_the_template_writes_it(make_tokenizer: MakeTokenizer) -> None:
    kind = sides(SYSTEM + YES, SYSTEM + NO)
    misplaced = sides(SYSTEM + YES + SYSTEM + YES, SYSTEM + YES + SYSTEM + NO) | {"id": "misplaced"}
    tokenizer = make_tokenizer(chat_template=WITH_SYSTEM.replace("KEEP", "true"))
    outcome = validate(dialogues(kind, misplaced), tokenizer, TOKENS, contract())
    reasons = {entry["id"]: entry["reason"] for entry in outcome.dropped}
    assert reasons == {"misplaced": "turn 4 of chosen is by system, expected user"}
    assert outcome.pairs["train"][-1]["prompt"] == SYSTEM


@pytest.mark.parametrize("template", [WITH_SYSTEM.replace("KEEP", "false"), None])
def test_a_template_without_a_system_role_is_the_reason(make_tokenizer: MakeTokenizer, template: str | None) -> None:
    """One that leaves the turn out in silence, and Gemma's, which raises."""
    tokenizer = make_tokenizer(**({} if template is None else {"chat_template": template}))
    outcome = validate(dialogues(sides(SYSTEM + YES, SYSTEM + NO)), tokenizer, TOKENS, contract())
    (entry,) = outcome.dropped
    assert entry["expectation"] == "roles_alternate"
    assert entry["reason"] == "turn 1 of chosen is by system, expected user: the template has no system role"


def test_a_bos_that_opens_each_turn_is_no_defect(make_tokenizer: MakeTokenizer) -> None:
    """SmolLM2's way; the count must still be the template's."""
    chatml = "{% for m in messages %}{{ bos_token }}{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
    chatml += "{% if add_generation_prompt %}{{ bos_token }}assistant\n{% endif %}"
    tokenizer = make_tokenizer(bos_token="<start_of_turn>", chat_template=chatml)
    system = sides(SYSTEM + YES, SYSTEM + NO)
    assert validate(dialogues(system), tokenizer, TOKENS, contract()).dropped == []
    bos, rule = tokenizer.bos_token_id, BosRule(tokenizer)
    assert (rule.per_exchange, rule.at_start) == (2, 0)
    assert [rule.errors(ids, turns=2) for ids in ([bos, 9, bos, 9], [bos, 9, 9], [9, bos, bos])] == [0, 1, 1]


def test_a_bos_that_opens_each_question_is_no_defect(make_tokenizer: MakeTokenizer) -> None:
    """Llama 2's way; its answers begin with a space and end with the stop token."""
    llama = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}{{ m.content }}?"
        "{% else %} {{ m.content }} <end_of_turn>{% endif %}{% endfor %}"
    )
    tokenizer = make_tokenizer(chat_template=llama)
    two = [*turns("A?"), *YES, *turns("B?")]
    assert validate(dialogues(sides(two + YES, two + NO)), tokenizer, TOKENS, contract()).dropped == []
    bos, rule = tokenizer.bos_token_id, BosRule(tokenizer)
    assert [rule.errors(ids, turns=4) for ids in ([bos, 9, bos, 9], [bos, 9, 9], [bos, bos, bos])] == [0, 1, 1]


@pytest.mark.parametrize("system", ["", "{% if messages[0].role != 'system' %}{{ bos_token }}s{% endif %}"])
def test_a_system_turn_may_come_first_where_the_template_renders_it(make_tokenizer: MakeTokenizer, system: str) -> None:
    """Also where each turn opens with BOS, and where the template writes a system turn of its own if none is given."""
    chatml = system + "{% for m in messages %}{{ bos_token }}{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
    chatml += "{% if add_generation_prompt %}{{ bos_token }}assistant\n{% endif %}"
    tokenizer = make_tokenizer(bos_token="<start_of_turn>", chat_template=chatml)
    two = [*SYSTEM[:1], *SYSTEM]
    rows = dialogues(sides(SYSTEM + YES, SYSTEM + NO), {**sides(two + YES, two + NO), "id": "two"})
    outcome = validate(rows, tokenizer, TOKENS, contract())
    assert [(entry["id"], entry["expectation"]) for entry in outcome.dropped] == [("two", "roles_alternate")]
    assert outcome.pairs["train"][-1]["prompt"] == SYSTEM

    silent = chatml.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    rows = dialogues(sides(SYSTEM + YES, SYSTEM + NO))
    left_out = validate(rows, make_tokenizer(bos_token="<start_of_turn>", chat_template=silent), TOKENS, contract())
    (entry,) = left_out.dropped
    assert entry["reason"] == "turn 1 of chosen is by system, expected user: the template has no system role"


def test_a_template_without_the_stop_token_or_with_two_stops(make_tokenizer: MakeTokenizer) -> None:
    never = make_tokenizer(eos_token="<eos>")
    twice = gemma_with(make_tokenizer, "<end_of_turn>", "<end_of_turn><end_of_turn>")
    for tokenizer in (never, twice):
        with pytest.raises(UserError, match=r"^4 of 4 rows of the split train fail stop_token_ends_answer"):
            validate(dialogues(), tokenizer, TOKENS, contract(on_failure={"stop_token_ends_answer": "stop"}))
