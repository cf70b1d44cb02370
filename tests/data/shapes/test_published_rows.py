"""Rows in the forms that trainers' documents and published files have, with invented texts."""

import pytest
from shape_rows import Row, bot, system, user

from epsilon_dpo.data.shapes.interface import Dropped, Half, Pair
from epsilon_dpo.data.shapes.recognition import recognise
from epsilon_dpo.pipeline.observability.errors import UserError


def read(row: Row) -> Pair:
    (found,) = recognise([row], "x").read(row, "x, row 1", "all")
    assert isinstance(found, Pair), found
    return found


def refusal(row: Row) -> str:
    with pytest.raises(UserError) as error:
        recognise([row], "x").read(row, "x, row 1", "all")
    return str(error.value)


def part(role: str, **beside: object) -> Row:
    """A turn of LLaMA-Factory's v1 files."""
    return {"role": role, "content": [{"type": "text", **beside}], "loss_weight": 0.0}


def v1(*first: Row) -> Row:
    """A row of such a file."""
    before = [*first, part("user", value="a")]
    return {f"{side}_messages": [*before, part("assistant", value=said)] for side, said in SIDES.items()}


SIDES = {"chosen": "b", "rejected": "c"}


def test_llama_factorys_v1_files_keep_a_text_in_value() -> None:
    """It was null, which dropped the row; before a null text, which parquet writes for an absent key, too."""
    assert read(v1(part("system", value="s"))) == Pair(
        [system("s"), user("a"), bot("b")], [system("s"), user("a"), bot("c")]
    )
    assert read(v1(part("system", text=None, value="s"))).chosen[0] == system("s")
    assert read(v1(part("system", text="t", value="s"))).chosen[0] == system("t")
    assert read(v1(part("system", value=" "))).chosen == [user("a"), bot("b")]


def test_a_text_without_its_key_is_refused() -> None:
    for role in ("user", "system"):
        expected = "the content of turn 1 of chosen has the keys type, content, expected type and text (column chosen_"
        assert expected in refusal(v1(part(role, content="s")))
    picture = {"role": "system", "content": [{"type": "image", "image": "s.png"}]}
    assert "turn 1 of chosen is a list of 1 parts (image): not supported" in refusal(v1(picture))


def test_torchtunes_columns_are_entire_dialogues() -> None:
    assert read({f"{side}_conversations": [user("a"), bot(said)] for side, said in SIDES.items()}).rejected == [
        user("a"),
        bot("c"),
    ]


def colossal(role: str, text: str) -> Row:
    return {"from": role, "content": text}


def test_colossal_chats_turns_are_read() -> None:
    context = [colossal("user", "p"), colossal("assistant", "q"), colossal("user", "a")]
    answers = {side: [colossal("assistant", said)] for side, said in SIDES.items()}
    assert read({"context": context, **answers}).chosen == [user("p"), bot("q"), user("a"), bot("b")]
    assert read({"context": [colossal("system", "s"), *context], **answers}).chosen[:2] == [system("s"), user("p")]
    assert read({"context": [colossal("system", " "), *context], **answers}).chosen[0] == user("p")
    for beside in ("", None):  # parquet gives each turn all keys that any turn has
        both = [turn | {"value": beside} for turn in (colossal("system", "s"), *context)]
        assert read({"context": both, **answers}).chosen[:2] == [system("s"), user("p")]
    row = {"prompt": context[2:], "completion": colossal("assistant", "b"), "label": True}
    assert recognise([row], "x").read(row, "x, row 1", "all") == [Half([user("a")], [bot("b")], True)]


@pytest.mark.parametrize("beside", [{"prompt": "a"}, {"context": "a"}])
def test_a_context_beside_a_prompt_or_as_text_stays_refused(beside: Row) -> None:
    answers = {side: [user("a"), bot(said)] for side, said in SIDES.items()}
    assert "context" in refusal({"context": [user("p")], **answers, **beside})


DIALOGUE = [system("s"), user("p"), bot("q"), user("a"), bot("b")]
OTHER = [*DIALOGUE[:-1], bot("c")]
ALL_BUT_LAST = DIALOGUE[:-1]


@pytest.mark.parametrize(
    "rejected",
    [
        {"rejected_response": "c"},
        {"rejected_messages": OTHER},
        {"rejected_messages": OTHER[1:]},
        {"rejected_messages": OTHER[-1:]},
        {"rejected_message": bot("c")},
    ],
)
def test_ms_swifts_messages_end_with_the_chosen_answer(rejected: Row) -> None:
    assert read({"messages": DIALOGUE, **rejected}) == Pair(DIALOGUE, OTHER)
    assert read({"messages": DIALOGUE[1:], "system": "s", **rejected}) == Pair(DIALOGUE, OTHER)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"messages": ALL_BUT_LAST, "rejected_response": "c"},
            "dialogue has turns by system, user, assistant, user; it",
        ),
        ({"messages": [bot("b")], "rejected_response": "c"}, "dialogue has turns by assistant; it must end"),
        ({"messages": [*DIALOGUE, system("t")], "label": True}, "user, assistant, system; it must end"),
        ({"messages": DIALOGUE, "rejected_messages": [user("z"), bot("c")]}, "but not with the prompt"),
        ({"messages": DIALOGUE, "rejected_response": "c", "question": "z"}, "but question may be the prompt"),
        ({"messages": DIALOGUE, "label": True, "answer": "z"}, "but answer may be the prompt"),
        (
            {"messages": DIALOGUE, "conversations": DIALOGUE, "label": True},
            "dialogue could be messages or conversations",
        ),
        ({"messages": DIALOGUE, "label": True, "kto_tag": False}, "label could be label or kto_tag"),
        ({"messages": ALL_BUT_LAST, "label": True}, "it must end with the assistant's"),
        ({"messages": [user("a")], "label": 1}, "label is number 1, which may name a class"),
        ({"messages": DIALOGUE, "label": "1"}, "label is text '1', which may name a class"),
        ({"messages": DIALOGUE, "label": "safe"}, "label is text 'safe', expected true or false"),
    ],
)
def test_messages_that_may_mean_something_else_are_refused(row: Row, sentence: str) -> None:
    assert sentence in refusal(row)


def test_sides_that_differ_early_are_read_as_entire_dialogues_by_name() -> None:
    row = {"messages": [user("a"), bot("b"), user("d"), bot("e")], "rejected_messages": [user("a"), bot("c")]}
    columns = {"chosen": "messages", "rejected": "rejected_messages"}
    (found,) = recognise([row], "x", columns).read(row, "x, row 1", "all")
    assert found == Pair(row["messages"], row["rejected_messages"])


def test_kto_rows_are_halves() -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    for row in ({"messages": [user("a"), bot("b")], "label": False}, {"conversations": turns, "kto_tag": False}):
        assert recognise([row], "x").read(row, "x, row 1", "all") == [Half([user("a")], [bot("b")], False)]


def test_ultrafeedbacks_answers_are_ranked_by_the_finer_of_their_two_scores() -> None:
    """overall_score is 1 in some rows that were meant as 10."""
    scores = {"b": (4.5, 1.0), "c": (2.0, 8.5)}
    completions = [
        {"response": text, "overall_score": overall, "fine-grained_score": fine}
        for text, (fine, overall) in scores.items()
    ]
    found = read({"instruction": "a", "completions": completions})
    assert found == Pair([user("a"), bot("b")], [user("a"), bot("c")], 2.5, "0-1")


def test_a_news_article_is_summarised_as_a_post_is() -> None:
    """summarize_from_feedback has both, each with the other's columns as null."""
    info = {"id": "7f", "post": None, "title": None, "subreddit": None, "site": None, "article": "Rain fell."}
    asked = user("ARTICLE: Rain fell.\n\nTL;DR:")
    row = {"info": info, "summaries": [{"text": "Bees."}, {"text": "Rain."}], "choice": 1}
    assert read(row) == Pair([asked, bot("Rain.")], [asked, bot("Bees.")])


def openai(**beside: object) -> Row:
    return {
        "input": {"messages": DIALOGUE[:-1], **beside},
        "preferred_output": DIALOGUE[-1:],
        "non_preferred_output": OTHER[-1:],
    }


def test_openais_rows_are_pairs() -> None:
    for beside in ({}, {"tools": [], "parallel_tool_calls": True}, {"tools": None, "parallel_tool_calls": False}):
        assert read(openai(**beside)) == Pair(DIALOGUE, OTHER)


@pytest.mark.parametrize("beside", [{"tools": [{"type": "function"}]}, {"response_format": {"type": "json"}}])
def test_openais_input_with_more_than_messages_is_refused(beside: Row) -> None:
    assert f"x, row 1: input has {next(iter(beside))}: not supported" in refusal(openai(**beside))


def test_a_prompt_beside_openais_input_is_refused() -> None:
    assert "no shape" in refusal({**openai(), "prompt": "z"})


def nemo(prompt: str, chosen: str = "b\n<extra_id_1>") -> Row:
    """A row of NeMo-Aligner's template."""
    return {"prompt": prompt, "chosen_response": chosen, "rejected_response": "c\n<extra_id_1>"}


ONE = "<extra_id_1>User\na\n<extra_id_1>Assistant\n"


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("prompt", "before"),
    [
        ("<extra_id_0>System\n\n" + ONE, []),
        ("<extra_id_0>System\n" + ONE, []),
        ("<extra_id_0>System\ns\n" + ONE, [system("s")]),
        ("<extra_id_0>System\n\n<extra_id_1>User\np\n<extra_id_1>Assistant\nq\n" + ONE, [user("p"), bot("q")]),
        ("<extra_id_0>System\ns\n<extra_id_1>User\na", [system("s")]),
    ],
)
def test_nemo_aligners_template_is_its_turns(prompt: str, before: list[Row], line_end: str) -> None:
    found = read({name: text.replace("\n", line_end) for name, text in nemo(prompt).items()})
    assert found == Pair([*before, user("a"), bot("b")], [*before, user("a"), bot("c")])


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            nemo("<extra_id_0>System\ns\n<extra_id_1>User\na\n<extra_id_1>Assistant\nb"),
            "turns by user, assistant between",
        ),
        (nemo("<extra_id_0>System\ns\n" + ONE * 2 + "b"), "turns by user, assistant, user, assistant between"),
        (nemo("<extra_id_0>System\ns"), "prompt has turns by nobody between markers <extra_id_1>"),
        (nemo("<extra_id_0>System\n\n" + ONE, "b\n<extra_id_1>User\nd"), "chosen goes on with other turns"),
        (
            {
                "prompt": "<extra_id_0>System\n\n" + ONE,
                "response_a": "b\n<extra_id_1>",
                "response_b": "c",
                "winner": "a",
            },
            "response_a ends with <extra_id_1>",
        ),
    ],
)
def test_other_turns_of_nemo_aligners_template_are_refused(row: Row, sentence: str) -> None:
    assert sentence in refusal(row)


def test_nemo_aligners_mark_goes_in_single_answers_and_stays_beside_another_prompt() -> None:
    row = {"prompt": "<extra_id_0>System\n\n" + ONE, "completion": "b\n<extra_id_1>", "label": True}
    assert recognise([row], "x").read(row, "x, row 1", "all") == [Half([user("a")], [bot("b")], True)]
    assert read(nemo("Which token is the second?")).chosen[-1] == bot("b\n<extra_id_1>")


RENDERED = (
    "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n",
    "<|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>",
    "[INST] a [/INST]",
    "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\na [/INST]",
    "<start_of_turn>user\na<end_of_turn>\n",
    "<bos><start_of_turn>user\na<end_of_turn>\n",
)


@pytest.mark.parametrize("rendered", RENDERED)
def test_what_a_chat_template_wrote_is_refused(rendered: str) -> None:
    """The model's own template would have written its tokens around it."""
    rows = [
        {"prompt": rendered, **SIDES},
        {"instruction": rendered, "input": "", **SIDES},
        {"chosen": f"{rendered}\nb", "rejected": f"{rendered}\nc"},
        {"prompt": rendered, "completion": "b", "label": True},
        {"prompt": rendered, "chosen": [bot("b")], "rejected": [bot("c")]},
    ]
    for row in rows:
        said = refusal(row)
        assert "so a chat template has written it" in said and "give its turns as messages" in said
        assert said.startswith(f"x: {next(iter(row))} begins with {rendered[:4]}")


@pytest.mark.parametrize(
    "text", ["What is <|im_start|>?", "Is `[INST]` a token?", "<s> and [INST]", "User: what is it?"]
)
def test_texts_about_tokens_are_data(text: str) -> None:
    assert read({"prompt": text, **SIDES}).chosen[0] == user(text)


@pytest.mark.parametrize("between", ["\n", "\n\n", "\r\n"])
@pytest.mark.parametrize("end", ["User: d", ""])
def test_turns_between_user_and_assistant_in_one_text_are_refused(between: str, end: str) -> None:
    written = f"User: a{between}Assistant: b{between}{end}"
    for row in ({"prompt": written, **SIDES}, {"instruction": written, "input": "", **SIDES}):
        said = refusal(row)
        assert said.startswith(f"x: {next(iter(row))} begins with User: and has a line that begins with Assistant:")
    assert "chosen begins with User:" in refusal({"chosen": f"{written}\nx", "rejected": f"{written}\ny"})


def test_so_are_they_beside_a_column_per_outcome() -> None:
    """Whose prompts may be lists, as LMSYS's are; a text there is a prompt as elsewhere."""
    outcomes = {"winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}
    row = {"prompt": "User: a\nAssistant: b\nUser: c", "response_a": "x", "response_b": "y", **outcomes}
    assert refusal(row).startswith("x: prompt begins with User: and has a line that begins with Assistant:")


def test_a_single_written_dialogue_among_prompts_is_dropped_by_name() -> None:
    """It may be data, such as a question about a dialogue, and a large set is not stopped for it."""
    row = {"prompt": "a", **SIDES}
    for first in ([row] * 3, [row, row | {"prompt": RENDERED[0]}, row]):
        for written in (RENDERED[0], "User: a\nAssistant: b\nWho said b?"):
            (dropped,) = recognise(first, "x").read(row | {"prompt": written}, "x, row 9", "all")
            assert isinstance(dropped, Dropped) and dropped.reason == "written_dialogue"


def test_ktos_tag_names_no_class() -> None:
    row = {"conversations": [user("a"), bot("b")], "kto_tag": 1}
    assert recognise([row], "x").read(row, "x", "all") == [Half([user("a")], [bot("b")], True)]
