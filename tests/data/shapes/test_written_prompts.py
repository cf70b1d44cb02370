"""A prompt whose text holds the turns of a dialogue is read as these turns or refused, never as one user turn."""

import pytest
from shape_rows import Row, bot, user

from epsilon_dpo.data.shapes.interface import Dropped, Pair
from epsilon_dpo.data.shapes.recognition import recognise
from epsilon_dpo.pipeline.observability.errors import UserError

HELPSTEER2: Row = {"split": "train", "response_1": "x", "response_2": "y", "preference_strength": -2}
MARKED = "Q1\n<extra_id_1>Assistant\nA1\n\nmore\n<extra_id_1>User\nQ2"


def read(row: Row) -> Pair:
    (found,) = recognise([row], "x").read(row, "x, row 1", "all")
    assert isinstance(found, Pair)
    return found


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_prompt_of_helpsteer2_is_its_turns(line_end: str) -> None:
    found = read(HELPSTEER2 | {"prompt": MARKED.replace("\n", line_end)})
    assert found.chosen == [user("Q1"), bot(f"A1{2 * line_end}more"), user("Q2"), bot("x")] and found.margin == 2.0


@pytest.mark.parametrize(
    "prompt",
    [
        MARKED + "\n<extra_id_1>Assistant",
        "<extra_id_1>User\n" + MARKED,
        "Q1\n<extra_id_1>Assistant\nA1",
    ],
)
def test_markers_of_other_turns_are_refused(prompt: str) -> None:
    with pytest.raises(UserError, match=r"x, row 1: prompt has turns by user, .* between markers <extra_id_1>"):
        read(HELPSTEER2 | {"prompt": prompt})


@pytest.mark.parametrize("stop", ["", "<|endoftext|>", "</s>"])
@pytest.mark.parametrize("end", ["", "<|assistant|>", "<|assistant|>\n"])
def test_a_prompt_of_open_assistant_is_its_turns(stop: str, end: str) -> None:
    written = f"<|prompter|>Q1{stop}<|assistant|>A1{stop}<|prompter|>Q2\nmore{stop}{end}"
    assert read({"prompt": written, "chosen": "x", "rejected": "y"}).chosen == [
        user("Q1"),
        bot("A1"),
        user("Q2\nmore"),
        bot("x"),
    ]


def test_html_in_a_prompt_of_open_assistant_stays() -> None:
    written = "<|prompter|>Is this right: <s>old</s><|endoftext|><|assistant|>"
    assert read({"prompt": written, "chosen": "x", "rejected": "y"}).chosen[0] == user("Is this right: <s>old</s>")


@pytest.mark.parametrize("written", ["<|prompter|>Q<|assistant|>A", "<|prompter|>Q<|prompter|>R"])
def test_turns_of_open_assistant_that_end_with_an_answer_are_refused(written: str) -> None:
    with pytest.raises(UserError, match=r"x, row 1: prompt has turns by user, .* between markers <\|prompter\|>"):
        read({"prompt": written, "chosen": "x", "rejected": "y"})


@pytest.mark.parametrize("end", ["", "\n", "\n\nAssistant:", "\n\nAssistant: "])
def test_a_transcript_is_its_turns_however_it_ends(end: str) -> None:
    row = {"prompt": f"Human: hi\n\nAssistant: yo\n\nHuman: q{end}", "chosen": "a", "rejected": "b"}
    assert read(row).chosen == [user("hi"), bot("yo"), user("q"), bot("a")]


@pytest.mark.parametrize(
    "prompt",
    [
        "\n\nHuman: hi\n\nAssistant: yo",
        "\n\nAssistant: yo",
        "\n\nAssistant:",
        "Human: hi\n\nAssistant: yo\n\nAssistant:",
    ],
)
def test_a_transcript_without_a_last_question_is_refused(prompt: str) -> None:
    with pytest.raises(UserError, match="x, row 1: prompt begins as transcripts do, but ends with an answer; end it"):
        read({"prompt": prompt, "chosen": "a", "rejected": "b"})


@pytest.mark.parametrize(
    "prompt",
    [
        "Human: q\nAssistant:",
        "Human: hi\nAssistant: yo\nHuman: q",
        "Human: hi\nAssistant: yo\nHuman: q\n\nAssistant:",
    ],
)
def test_one_with_turns_in_single_lines_is_dropped_by_name(prompt: str) -> None:
    row = {"prompt": prompt, "chosen": "a", "rejected": "b"}
    (found,) = recognise([row], "x").read(row, "x, row 1", "all")
    assert isinstance(found, Dropped) and found.reason == "written_dialogue" and "in single lines" in found.detail


@pytest.mark.parametrize("end", ["", "\n\nAssistant:"])
def test_a_turn_of_hh_that_begins_with_a_header_is_what_it_says(end: str) -> None:
    """1 % of Anthropic-HH's dialogues have one."""
    row = {"prompt": f"Human: hi\n\nAssistant: Human: So?\n\nHuman: q{end}", "chosen": "a", "rejected": "b"}
    assert read(row).chosen == [user("hi"), bot("Human: So?"), user("q"), bot("a")]


@pytest.mark.parametrize(
    "written",
    [
        "Human: Q1\n\nAssistant: A1\n\nHuman: Q2\n\nAssistant:",
        "<|prompter|>Q1<|endoftext|><|assistant|>A1<|endoftext|><|prompter|>Q2<|endoftext|><|assistant|>",
        "Q1\n<extra_id_1>Assistant\nA1\n<extra_id_1>User\nQ2",
        "<extra_id_0>System\n\n<extra_id_1>User\nQ1\n<extra_id_1>Assistant\nA1\n<extra_id_1>User\nQ2",
    ],
)
def test_so_is_an_instruction(written: str) -> None:
    """Of Alpaca's and of ms-swift's rows; an input belongs to the last question."""
    alpaca: Row = {"instruction": written, "input": "", "chosen": "x", "rejected": "y"}
    swift = {"query": written, "response": "x", "rejected_response": "y"}
    for row in (alpaca, swift):
        assert read(row).chosen == [user("Q1"), bot("A1"), user("Q2"), bot("x")]
    found = read(alpaca | {"input": "it", "system": "s"}).chosen
    assert found == [{"role": "system", "content": "s"}, user("Q1"), bot("A1"), user("Q2\nit"), bot("x")]
    with pytest.raises(UserError, match="instruction holds turns of its own, and so does history"):
        read(swift | {"history": [["Q0", "A0"]]})


@pytest.mark.parametrize("written", ["<|prompter|>Q1<|assistant|>A1<|prompter|>Q2\n", MARKED + "\n"])
def test_where_no_column_is_the_prompt_none_is_made_of_them(written: str) -> None:
    with pytest.raises(UserError, match=r"chosen is written in turns between <.*>, which are read in a prompt"):
        read({"chosen": f"{written}x", "rejected": f"{written}y"})
