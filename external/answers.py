"""answers: a policy's answers to a benchmark's questions. `python answers.py RUN` in the folder external/"""

from pathlib import Path

from epsilon_dpo.external.answers.params import AnswersView
from epsilon_dpo.external.benchmarks.questions import read_questions
from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_argument, run_stage
from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.params import load

with heavy_imports(computes=True):
    from epsilon_dpo.external.answers.answering import answer
    from epsilon_dpo.pipeline.stage.runtime import set_up
    from epsilon_dpo.sampling.answers.sampling import summary

name = run_argument()
with run_stage("answers", name) as stage:
    params = load(AnswersView)
    run = params.runs[name]
    set_up(params.seed, params.threads)
    policy = Path("../out") / run.policy / "model"
    questions = read_questions(run.benchmark, run.data)
    decoding = getattr(params.decoding, run.benchmark)
    answers = answer(policy, questions, decoding, params.decoding.stop, params.seed, stage.scratch)
    metrics = summary([turn for row in answers for turn in row["turns"]])
    write_jsonl(stage.out / "answers.jsonl", answers)
    write_json(stage.out / "metrics.json", {**metrics, "policy_sha256": digest(policy)})
    stage.tracker.log_metrics(metrics)
    stage.summary = f"{metrics['n']} answers, {metrics['mean_tokens']:.1f} tokens on average"
