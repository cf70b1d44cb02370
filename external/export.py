"""export: the answers as the benchmark's tool reads them. `python export.py RUN` in the folder external/"""

from pathlib import Path

from epsilon_dpo.external.benchmarks.params import ExportView
from epsilon_dpo.external.benchmarks.questions import read_questions
from epsilon_dpo.external.export.formats import write_answers
from epsilon_dpo.pipeline.stage.execution import run_argument, run_stage
from epsilon_dpo.pipeline.stage.files import read_jsonl
from epsilon_dpo.pipeline.stage.params import load

name = run_argument()
with run_stage("export", name) as stage:
    params = load(ExportView)
    run = params.runs[name]
    questions = read_questions(run.benchmark, run.data)
    answers = read_jsonl(Path("out/answers") / name / "answers.jsonl")
    file = write_answers(name, run, questions, answers, params.export, stage.out)
    stage.summary = f"{len(answers)} questions: external/out/export/{name}/{file.relative_to(stage.out)}"
