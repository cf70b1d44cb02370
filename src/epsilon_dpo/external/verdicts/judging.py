"""From an exported answer file to the tool's verdict on it."""

from pathlib import Path

from epsilon_dpo.external.benchmarks.params import Judge, Judges, Run
from epsilon_dpo.external.verdicts.judge_alpaca_eval import judge_alpaca_eval
from epsilon_dpo.external.verdicts.judge_arena_hard import judge_arena_hard
from epsilon_dpo.external.verdicts.judge_mt_bench import judge_mt_bench
from epsilon_dpo.external.verdicts.tool import Contest, Settings, Verdict, work_folder


def judge_of(run: Run, judges: Judges) -> Judge:
    """The entry of the run's benchmark."""
    found: Judge = getattr(judges, run.benchmark)
    return found


def verdict_on(name: str, run: Run, judges: Judges, answers: Path) -> Verdict:
    """Run the tool of `run.benchmark` on the answer file of model `name`.

    Raises:
        UserError: a file, the environment, the key or the endpoint is missing, or the tool failed.
    """

    def contest(judge: Settings) -> Contest[Settings]:
        return Contest(name, answers, run.data, judge, work_folder(name, answers, run.data, judge))

    if run.benchmark == "alpaca_eval":
        return judge_alpaca_eval(contest(judges.alpaca_eval))
    if run.benchmark == "arena_hard":
        return judge_arena_hard(contest(judges.arena_hard))
    return judge_mt_bench(contest(judges.mt_bench))
