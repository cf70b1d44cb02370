"""From an exported answer file to the tool's verdict on it."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from epsilon_dpo.external.benchmarks.params import Judges, Run
from epsilon_dpo.external.verdicts.judge_alpaca_eval import alpaca_eval_files, judge_alpaca_eval
from epsilon_dpo.external.verdicts.judge_arena_hard import arena_hard_files, judge_arena_hard
from epsilon_dpo.external.verdicts.judge_mt_bench import judge_mt_bench, mt_bench_files
from epsilon_dpo.external.verdicts.tool import Contest, Settings, Verdict, alone, work_folder


def verdict_on(name: str, run: Run, judges: Judges, answers: Path) -> Verdict:
    """Run the tool of `run.benchmark` on the answer file of model `name`.

    Raises:
        UserError: a file, the environment, the key or the endpoint is missing, the tool failed, or that of
            an earlier run is still at work.
    """
    locks = ExitStack()

    def contest(judge: Settings, files: Callable[[Path, Settings], list[Path]]) -> Contest[Settings]:
        work = work_folder(name, answers, files(run.data, judge), judge)
        return Contest(name, answers, run.data, judge, work, locks.enter_context(alone(work)))

    with locks:
        if run.benchmark == "alpaca_eval":
            return judge_alpaca_eval(contest(judges.alpaca_eval, alpaca_eval_files))
        if run.benchmark == "arena_hard":
            return judge_arena_hard(contest(judges.arena_hard, arena_hard_files))
        return judge_mt_bench(contest(judges.mt_bench, mt_bench_files))
