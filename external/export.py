"""export: the answers as the benchmark's tool reads them. `python export.py RUN` in the folder external/"""

from pathlib import Path

from epsilon_dpo.external.formats import write_answers
from epsilon_dpo.external.params import ExportView
from epsilon_dpo.external.questions import read_questions
from epsilon_dpo.outputs import read_jsonl
from epsilon_dpo.params.strict import load
from epsilon_dpo.stage import run_argument, run_stage

name = run_argument()
with run_stage("export", name) as stage:
    params = load(ExportView)
    run = params.runs[name]
    questions = read_questions(run.benchmark, run.data)
    answers = read_jsonl(Path("out/answers") / name / "answers.jsonl")
    file = write_answers(name, run, questions, answers, params.export, stage.out)
    stage.summary = f"{len(answers)} questions: external/out/export/{name}/{file.relative_to(stage.out)}"
