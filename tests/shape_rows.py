"""Invented rows of every shape that data/shapes reads, the pairs that they make, and a wrong twin of one of them."""

from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def bot(text: str) -> Row:
    return {"role": "assistant", "content": text}


def system(text: str) -> Row:
    return {"role": "system", "content": text}


def pair(*turns: Row, good: str, bad: str, **beside: Any) -> Row:
    """What a row becomes, without its id."""
    return {"chosen": [*turns, bot(good)], "rejected": [*turns, bot(bad)], **beside}


@dataclass(frozen=True)
class Example:
    """Rows of one shape.

    Attributes:
        pairs: what they become, in order; of rows that make none, `dropped` has the reasons.
        twin: what is wrong with the second row, as changes of its columns.
        sentence: what is said of it, after "row 2: ".
        flat: whether the values are texts and numbers, so that csv and tsv can hold them.
    """

    rows: list[Row]
    pairs: list[Row]
    twin: Row
    sentence: str
    dropped: tuple[str, ...] = ()
    flat: bool = False


TOOL = [user("q"), {"role": "tool", "content": "4"}]
EXAMPLES = {
    "explicit_text": Example(
        [
            {"prompt": "Best metal?", "chosen": "Gold, I say.", "rejected": "Bees.", "margin": 1.5},
            {"prompt": "Is 42 even?", "chosen": "2024-01-01", "rejected": "None", "margin": 2.5},
            {"prompt": "A tie?", "chosen": "Yes.", "rejected": "No.", "margin": 0.0},
        ],
        [
            pair(user("Best metal?"), good="Gold, I say.", bad="Bees.", margin=1.5),
            pair(user("Is 42 even?"), good="2024-01-01", bad="None", margin=2.5),
        ],
        {"margin": "large"},
        "margin is text 'large', expected a number",
        ("tied",),
        flat=True,
    ),
    "implicit_text": Example(
        [
            {"chosen": "Name a metal.\nIt is gold.", "rejected": "Name a metal.\nIt is bees.", "margin": 1.0},
            {"chosen": "The sky is blue.", "rejected": "The sky is green.", "margin": 0.5},
            {"chosen": "Yes.", "rejected": "No.", "margin": 1.0},
        ],
        [
            pair(user("Name a metal."), good="It is gold.", bad="It is bees.", margin=1.0),
            pair(user("The sky is"), good="blue.", bad="green.", margin=0.5),
        ],
        {"margin": "wide"},
        "margin is text 'wide', expected a number",
        ("no_common_beginning",),
        flat=True,
    ),
    "transcripts": Example(
        [
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
            {
                "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: d\n\nAssistant: e",
                "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: d\n\nAssistant: f",
            },
        ],
        [pair(user("a"), good="b", bad="c"), pair(user("a"), bot("b"), user("d"), good="e", bad="f")],
        {"rejected": "no header"},
        "rejected does not begin with '\\n\\nHuman: '",
        flat=True,
    ),
    "explicit_messages": Example(
        [
            {"prompt": [user("a")], "chosen": [bot("b")], "rejected": [bot("c")]},
            {"prompt": [user("a"), bot("b"), user("d")], "chosen": [bot("e")], "rejected": [bot("f")]},
        ],
        [pair(user("a"), good="b", bad="c"), pair(user("a"), bot("b"), user("d"), good="e", bad="f")],
        {"prompt": TOOL},
        "turn 2 of prompt is by 'tool': tool calls are not supported",
    ),
    "implicit_messages": Example(
        [
            {"chosen": [user("a"), bot("b")], "rejected": [user("a"), bot("c")], "source": "x"},
            {
                "chosen": [system("s"), user("a"), bot("b")],
                "rejected": [system("s"), user("a"), bot("c")],
                "source": "x",
            },
        ],
        [pair(user("a"), good="b", bad="c"), pair(system("s"), user("a"), good="b", bad="c")],
        {"chosen": [user("a"), {"role": "critic", "content": "b"}]},
        "turn 2 of chosen is by 'critic', which is no role known here",
    ),
    "ultrafeedback_binarized": Example(
        [
            {
                "prompt": "a",
                "prompt_id": "7f",
                "chosen": [user("a"), bot("b")],
                "rejected": [user("a"), bot("c")],
                "messages": [user("a"), bot("b")],
                "score_chosen": chosen,
                "score_rejected": 7.5,
            }
            for chosen in (8.5, 9.0, 7.5)
        ],
        [pair(user("a"), good="b", bad="c", margin=1.0), pair(user("a"), good="b", bad="c", margin=1.5)],
        {"chosen": [bot("b"), {"role": "narrator", "content": "b"}]},
        "turn 2 of chosen is by 'narrator'",
        ("tied",),
    ),
    "prompt_beside_dialogues": Example(
        [
            {
                "prompt_id": "7f",
                "prompt": prompt,
                "all_generated_responses": ["b", "c"],
                "all_rm_scores": [0.5, 0.25],
                "chosen": [user(prompt), bot("b")],
                "rejected": [user(prompt), bot("c")],
            }
            for prompt in ("a", "d")
        ],
        [pair(user("a"), good="b", bad="c"), pair(user("d"), good="b", bad="c")],
        {"rejected": [{"role": "user", "content": "d"}, {"role": "function_call", "content": "{}"}]},
        "turn 2 of rejected is by 'function_call': tool calls are not supported",
    ),
    "sharegpt": Example(
        [
            {
                "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}],
                "chosen": {"from": "gpt", "value": "b"},
                "rejected": {"from": "gpt", "value": "c"},
            },
            {
                "conversations": [{"from": "Human", "value": "d"}],
                "chosen": {"from": "bot", "value": "e"},
                "rejected": {"from": "bot", "value": "f"},
            },
        ],
        [pair(system("s"), user("a"), good="b", bad="c"), pair(user("d"), good="e", bad="f")],
        {"conversations": [{"from": "human", "value": "d"}, {"from": "observation", "value": "4"}]},
        "turn 2 of conversations is by 'observation': tool calls are not supported",
    ),
    "alpaca": Example(
        [
            {
                "instruction": "Translate.",
                "input": "Bonjour",
                "chosen": "Hello",
                "rejected": "Bees",
                "system": "s",
                "history": [["a", "b"]],
            },
            {"instruction": "Sing.", "input": "", "chosen": "La", "rejected": "Moo", "system": "", "history": []},
        ],
        [
            pair(system("s"), user("a"), bot("b"), user("Translate.\nBonjour"), good="Hello", bad="Bees"),
            pair(user("Sing."), good="La", bad="Moo"),
        ],
        {"history": [["a", "b", "c"]]},
        "history is no list of [question, answer]",
    ),
    "query_with_rejected": Example(
        [
            {
                "system": "s",
                "query": "Sum?",
                "response": "4",
                "rejected_response": "5",
                "history": [["a", "b"]],
            },
            {"system": "", "query": "Sing.", "response": "La", "rejected_response": "Moo", "history": []},
        ],
        [
            pair(system("s"), user("a"), bot("b"), user("Sum?"), good="4", bad="5"),
            pair(user("Sing."), good="La", bad="Moo"),
        ],
        {"history": [["a"]]},
        "history is no list of [question, answer]",
    ),
    "system_beside": Example(
        [
            {"system": "Be brief.", "question": "a", "chosen": "b", "rejected": "c", "margin": 1.0},
            {"system": "", "question": "d", "chosen": "e", "rejected": "f", "margin": 2.0},
        ],
        [
            pair(system("Be brief."), user("a"), good="b", bad="c", margin=1.0),
            pair(user("d"), good="e", bad="f", margin=2.0),
        ],
        {"margin": "much"},
        "margin is text 'much', expected a number",
        flat=True,
    ),
    "two_answers_from_0": Example(
        [
            {"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 0, "safer_response_id": 1},
            {"prompt": "d", "response_0": "e", "response_1": "f", "better_response_id": 1, "safer_response_id": 1},
        ],
        [pair(user("a"), good="b", bad="c"), pair(user("d"), good="f", bad="e")],
        {"better_response_id": 2},
        "the verdict is number 2, which names neither answer",
        flat=True,
    ),
    "two_answers_from_1": Example(
        [
            {"instruction": "a", "input": "x", "response1": "b", "response2": "c", "preference": 1},
            {"instruction": "d", "input": "", "response1": "e", "response2": "f", "preference": 2},
            {"instruction": "d", "input": "", "response1": "e", "response2": "f", "preference": 0},
        ],
        [pair(user("a\nx"), good="b", bad="c"), pair(user("d"), good="f", bad="e")],
        {"preference": 3},
        "the verdict is number 3, which names neither answer",
        ("tied",),
        flat=True,
    ),
    "two_answers_lettered": Example(
        [
            {"prompt": "a", "response_a": "b", "response_b": "c", "winner": "model_a"},
            {"prompt": "d", "response_a": "e", "response_b": "f", "winner": "B"},
            {"prompt": "d", "response_a": "e", "response_b": "f", "winner": "tie"},
        ],
        [pair(user("a"), good="b", bad="c"), pair(user("d"), good="f", bad="e")],
        {"winner": "left"},
        "the verdict is text 'left', which names neither answer",
        ("tied",),
        flat=True,
    ),
    "winner_columns": Example(
        [
            {
                "id": 30192,
                "model_a": "gpt-4-1106-preview",
                "model_b": "gpt-4-0613",
                "prompt": '["a","A?"]',
                "response_a": '["b", "B"]',
                "response_b": '["b","C"]',
                "winner_model_a": 1,
                "winner_model_b": 0,
                "winner_tie": 0,
            },
            *(
                {
                    "id": 53567,
                    "model_a": "koala-13b",
                    "model_b": "gpt-4-0613",
                    "prompt": '["d"]',
                    "response_a": said,
                    "response_b": '["f"]',
                    "winner_model_a": 0,
                    "winner_model_b": 1 - tie,
                    "winner_tie": tie,
                }
                for said, tie in (('["e"]', 0), ('["e"]', 1), ("[null]", 0), ('["\\ud83d"]', 0))
            ),
        ],
        [
            {
                "chosen": [user("a"), bot("b"), user("A?"), bot("B")],
                "rejected": [user("a"), bot("b"), user("A?"), bot("C")],
            },
            pair(user("d"), good="f", bad="e"),
        ],
        {"response_b": '["f", "F"]'},
        "response_b holds 2 texts, expected 1, one for each of prompt",
        ("tied", "null", "not_unicode"),
        flat=True,
    ),
    "signed_preference": Example(
        [
            {"context": [user("a")], "response1": "b", "response2": "c", "overall_preference": -3},
            {"context": [user("d")], "response1": "e", "response2": "f", "overall_preference": 1},
            {"context": [user("d")], "response1": "e", "response2": "f", "overall_preference": 0},
        ],
        [pair(user("a"), good="b", bad="c", margin=3.0), pair(user("d"), good="f", bad="e", margin=1.0)],
        {"context": [{"role": "ipython", "content": "1"}]},
        "turn 1 of prompt is by 'ipython': tool calls are not supported",
        ("tied",),
    ),
    "shp": Example(
        [
            {"history": "a", "human_ref_A": "b", "human_ref_B": "c", "labels": 1, "score_A": 9, "score_B": 4},
            {"history": "d", "human_ref_A": "e", "human_ref_B": "f", "labels": 0, "score_A": 2, "score_B": 3},
        ],
        [pair(user("a"), good="b", bad="c", margin=5.0), pair(user("d"), good="f", bad="e", margin=1.0)],
        {"labels": 2},
        "labels is number 2, which names neither answer",
        flat=True,
    ),
    "arena": Example(
        [
            {"conversation_a": [user("a"), bot("b")], "conversation_b": [user("a"), bot("c")], "winner": "model_b"},
            {"conversation_a": [user("d"), bot("e")], "conversation_b": [user("d"), bot("f")], "winner": "model_a"},
            {
                "conversation_a": [user("d"), bot("e")],
                "conversation_b": [user("d"), bot("f")],
                "winner": "tie (bothbad)",
            },
        ],
        [pair(user("a"), good="c", bad="b"), pair(user("d"), good="e", bad="f")],
        {"winner": "model_c"},
        "winner is text 'model_c', which names neither answer",
        ("tied",),
    ),
    "summaries": Example(
        [
            {
                "info": {"subreddit": "tea", "title": "Tea", "post": "I like tea."},
                "summaries": [{"text": "Tea."}, {"text": "Bees."}],
                "choice": choice,
            }
            for choice in (0, 1)
        ],
        [
            pair(user("SUBREDDIT: r/tea\n\nTITLE: Tea\n\nPOST: I like tea.\n\nTL;DR:"), good=good, bad=bad)
            for good, bad in (("Tea.", "Bees."), ("Bees.", "Tea."))
        ],
        {"choice": 2},
        "choice is number 2, which names neither answer",
    ),
    "scored_answers": Example(
        [
            {
                "prompt": "\n\nHuman: a\n\nAssistant: ",
                "answers": [{"answer": "b", "rank": 2}, {"answer": "c", "rank": 3}, {"answer": "d", "rank": 1}],
            },
            {"prompt": "e", "answers": [{"answer": "f", "rank": 1}, {"answer": "g", "rank": 2}]},
            {"prompt": "h", "answers": [{"answer": "f", "rank": 1}, {"answer": "g", "rank": 1}]},
            {"prompt": "i", "answers": [{"answer": "f", "rank": 1}]},
        ],
        [pair(user("a"), good="d", bad="c", margin=2.0), pair(user("e"), good="f", bad="g", margin=1.0)],
        {"answers": ["f", "g"]},
        "answer 0 has no score",
        ("tied", "one_answer"),
    ),
    "scored_columns": Example(
        [
            {
                "question": {"dataset": "eli5", "id": "5gdg4b", "full_text": asked},
                "quotes_0": {"title": ["Tea (tea.org)"], "extract": ["Tea is a drink."]},
                "answer_0": "b [1]",
                "tokens_0": {"prefix": [24361, 25], "completion": [65]},
                "score_0": score,
                "quotes_1": {"title": [], "extract": []},
                "answer_1": "c",
                "tokens_1": {"prefix": [24361, 25], "completion": [66]},
                "score_1": -score,
            }
            for asked, score in (("a", 0.5), ("d", -0.25), ("e", 0.0))
        ],
        [pair(user("a"), good="b [1]", bad="c", margin=1.0), pair(user("d"), good="c", bad="b [1]", margin=0.5)],
        {"score_1": "much"},
        "score_1 is text 'much', expected a number",
        ("tied",),
    ),
    "ranked_columns": Example(
        [
            {"prompt": "a", "completion_0": "b", "completion_1": "c", "completion_2": "d", "ranking": ranking}
            for ranking in ([2, 1, 0], [1, 0, 2])
        ],
        [pair(user("a"), good="d", bad="b", margin=2.0), pair(user("a"), good="c", bad="d", margin=2.0)],
        {"ranking": [2, 0, 1]},
        "ranking is numbers [2, 0, 1], which may be the answers' numbers, best first, or the rank of each: say with "
        "fetch.columns which, {prompt: prompt, response_0: completion_0, response_1: completion_1, response_2: "
        "completion_2, order: ranking} (KoChatGPT was written so) or {",
    ),
    "unpaired": Example(
        [
            {"prompt": "a", "completion": "b", "label": True},
            {"prompt": "d", "completion": "e", "label": False},
            {"prompt": "a", "completion": "c", "label": False},
            {"prompt": "d", "completion": "f", "label": True},
            {"prompt": "d", "completion": "g", "label": True},
        ],
        [pair(user("a"), good="b", bad="c"), pair(user("d"), good="f", bad="e")],
        {"label": "maybe"},
        "label is text 'maybe', expected true or false",
        ("unpaired",),
        flat=True,
    ),
    "dialogue_with_rejected": Example(
        [
            {"messages": [system("s"), user("a"), bot("b")], "rejected_response": "c"},
            {"messages": [user("a"), bot("b"), user("d"), bot("e")], "rejected_response": "f"},
        ],
        [pair(system("s"), user("a"), good="b", bad="c"), pair(user("a"), bot("b"), user("d"), good="e", bad="f")],
        {"messages": [user("a"), bot("b"), user("d")]},
        "dialogue has turns by user, assistant, user; it must end with the assistant's, which answer the user's last "
        "(column messages)",
    ),
    "openai": Example(
        [
            {
                "input": {"messages": [user(asked)], "tools": [], "parallel_tool_calls": True},
                "preferred_output": [bot("b")],
                "non_preferred_output": [bot("c")],
            }
            for asked in ("a", "d")
        ],
        [pair(user("a"), good="b", bad="c"), pair(user("d"), good="b", bad="c")],
        {"input": {"messages": [user("d")], "tools": ["search"], "parallel_tool_calls": True}},
        "input has tools: not supported, only messages are",
    ),
    "labelled_dialogues": Example(
        [
            {"messages": [user("a"), bot("b")], "label": True},
            {"messages": [user("d"), bot("e"), user("f"), bot("g")], "label": False},
            {"messages": [user("a"), bot("c")], "label": False},
        ],
        [pair(user("a"), good="b", bad="c")],
        {"label": 1},
        "label is number 1, which may name a class; write true or false if it judges the answer",
        ("unpaired",),
    ),
}
