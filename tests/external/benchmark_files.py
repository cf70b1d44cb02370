"""Small files in the form of each benchmark's own."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl

WORDS = ("w1 w2", "w3", "w4 w5 w6", "w7 w8", "w9")


def write_alpaca_eval(folder: Path, count: int = 10) -> None:
    """The baseline's outputs, and difficulties as in df_gamed.csv: two gamed models with one row per instruction."""
    rows = [
        {
            "dataset": ("helpful_base", "koala")[place % 2],
            "instruction": f"{WORDS[place % 5]} w{10 + place}",
            "output": "good " * (place % 3) + "w1",
            "generator": "gpt4_1106_preview",
            "datasplit": "eval",
        }
        for place in range(count)
    ]
    write_json(folder / "alpaca_eval_gpt4_baseline.json", rows)
    with (folder / "df_gamed.csv").open("w", newline="") as file:
        columns = ("model", "index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")
        writer = csv.writer(file)
        writer.writerow(columns)
        for model, length in (("concise", -1.0), ("verbose", 1.0)):
            writer.writerows(
                [model, place, 0.4 + 0.1 * length, length, 0.3 * (place % 4 - 1.5), False] for place in range(count)
            )


def write_arena_hard(folder: Path, count: int = 6, of_2024: bool = False) -> None:
    """Questions and the baseline's answers, of which every second is good."""
    (folder / "model_answer").mkdir(exist_ok=True)
    questions, answers = [], []
    for place in range(count):
        id_, prompt, answer = f"id{place}", f"{WORDS[place % 5]} w{20 + place}", "good w1" if place % 2 else "w1"
        if of_2024:
            questions.append({"question_id": id_, "category": "arena-hard-v0.1", "turns": [{"content": prompt}]})
            choices = [{"index": 0, "turns": [{"content": answer, "token_len": 2}]}]
            answers.append({"question_id": id_, "answer_id": "x", "model_id": "gpt-4-0314", "choices": choices})
        else:
            questions.append({"uid": id_, "category": "arena-hard-v0.1", "prompt": prompt})
            messages = [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": {"answer": answer}},
            ]
            answers.append({"uid": id_, "ans_id": "x", "model": "gpt-4-0314", "messages": messages, "tstamp": 1.0})
    write_jsonl(folder / "question.jsonl", questions)
    write_jsonl(folder / "model_answer" / "gpt-4-0314.jsonl", answers)


SINGLE = (
    "[Question]\n{question}\n{reference}\n[The Start of Assistant's Answer]\n{answer}\n[The End of Assistant's Answer]"
)
DOUBLE = (
    "### User:\n{question_1}\n### Assistant A:\n{answer_1}\n### User:\n{question_2}\n### Assistant A:\n{answer_2}\n"
)


def write_mt_bench(folder: Path) -> None:
    """Two questions of one category, one of a category with a reference answer."""
    (folder / "reference_answer").mkdir(exist_ok=True)
    categories = {81: "writing", 111: "math", 141: "stem"}
    write_jsonl(
        folder / "question.jsonl",
        [
            {"question_id": number, "category": category, "turns": [f"w{number % 50 + 1} w2", "w3 w4"]}
            for number, category in categories.items()
        ],
    )
    for judge in ("gpt-4", "gpt-4-1106-preview"):
        reference = {"question_id": 111, "answer_id": "x", "model_id": judge, "tstamp": 0.0}
        choices = [{"index": 0, "turns": ["the reference of turn 1", "the reference of turn 2"]}]
        write_jsonl(folder / "reference_answer" / f"{judge}.jsonl", [reference | {"choices": choices}])
    prompts = []
    for name, multi in (("single-v1", False), ("single-math-v1", False), ("single-v1", True), ("single-math-v1", True)):
        reference = "Reference: {ref_answer_1}" if "math" in name else ""
        template = reference + DOUBLE if multi else SINGLE.replace("{reference}", reference)
        whole = {"name": name + "-multi-turn" * multi, "type": "single", "system_prompt": "Judge."}
        prompts.append(whole | {"prompt_template": template, "output_format": "[[rating]]"})
    for name in ("pair-v2", "pair-math-v1"):
        prompts += [{"name": name + ending, "type": "pairwise"} for ending in ("", "-multi-turn")]
    write_jsonl(folder / "judge_prompts.jsonl", prompts)


WRITERS: dict[str, Callable[[Path], None]] = {
    "alpaca_eval": write_alpaca_eval,
    "arena_hard": write_arena_hard,
    "mt_bench": write_mt_bench,
}


def rows_of(path: Path) -> list[dict[str, Any]]:
    text = path.read_text("utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
