"""In the place of Arena-Hard's gen_judgment.py, which is in no package index: the same files in and out, no more.

Written from the interface alone, for its current form and that of 2024: settings and endpoint file, question.jsonl,
model_answer/*.jsonl in, model_judgment/JUDGE/MODEL.jsonl out, to which it appends and in which it skips what is there.
"""

import argparse
import json
import os
import re
from pathlib import Path
from urllib.request import Request, urlopen


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def ask(endpoint: dict, system: str, prompt: str) -> str:
    assert endpoint["endpoints"] is None and endpoint["api_type"] == "openai"
    body = {
        "model": endpoint["model"],
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": prompt}],
    }
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}", "Content-Type": "application/json"}
    url = f"{os.environ['OPENAI_BASE_URL']}/chat/completions"
    with urlopen(Request(url, json.dumps(body).encode(), headers)) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--setting-file")
    parser.add_argument("--endpoint-file")
    files = parser.parse_args()
    settings, endpoints = (json.loads(Path(name).read_text()) for name in (files.setting_file, files.endpoint_file))
    bench, judge = Path("data") / settings["bench_name"], settings["judge_model"]
    of_2024 = "pairwise" in settings
    id_ = "question_id" if of_2024 else "uid"
    answers = {path.stem: {row[id_]: row for row in rows(path)} for path in (bench / "model_answer").glob("*.jsonl")}

    def text(row: dict) -> str:
        return row["choices"][0]["turns"][0]["content"] if of_2024 else row["messages"][-1]["content"]["answer"]

    def game(question: dict, a: dict, b: dict) -> dict:
        asked = question["turns"][0]["content"] if of_2024 else question["prompt"]
        if of_2024:
            prompt = settings["prompt_template"][0].format(question_1=asked, answer_1=text(a), answer_2=text(b))
        else:
            prompt = settings["prompt_template"].format(QUESTION=asked, ANSWER_A=text(a), ANSWER_B=text(b))
        said = ask(endpoints[judge], settings.get("system_prompt", "Judge."), prompt)
        found = re.findall(settings["regex_pattern"] if of_2024 else settings["regex_patterns"][0], said)
        return {"score": found[-1] if found else None, "judgment": said}

    for model in settings["model_list"]:
        path = bench / "model_judgment" / judge / f"{model}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        done = {row[id_] for row in rows(path)}
        for question in reversed(rows(bench / "question.jsonl")):  # whatever order its threads finish in
            if question[id_] in done:
                continue
            baseline, answer = answers["gpt-4-0314"][question[id_]], answers[model][question[id_]]
            games = [game(question, baseline, answer), game(question, answer, baseline)]
            with path.open("a", encoding="utf-8") as file:
                row = {id_: question[id_], "category": "v0.1", "judge": judge, "model": model, "games": games}
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
