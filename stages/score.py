"""score: a run's answers, judged against the chosen ones and the reference's. `python -m stages.score RUN`"""

from pathlib import Path

from epsilon_dpo.contests import read_same_prompts, run_contests
from epsilon_dpo.judges.loading import load_judge
from epsilon_dpo.outputs import read_json, write_json, write_jsonl
from epsilon_dpo.params.score import ScoreView
from epsilon_dpo.params.strict import load
from epsilon_dpo.runs import make_place, policy_paths
from epsilon_dpo.runtime import set_up
from epsilon_dpo.scoring import Intervals, by_opponent, judge_contests, known_truth
from epsilon_dpo.stage import run_argument, run_stage

run = run_argument()
with run_stage("score", run) as stage:
    params = load(ScoreView)
    set_up(params.seed, params.threads)
    judge = load_judge(Path("out/judge"))
    truth = known_truth(Path("out/validate/dataset.json"))
    for place in policy_paths(Path("out/sample") / run):  # the final policy comes last
        sampled, out = Path("out/sample") / run / place, make_place(stage.out, place)
        samples, reference = read_same_prompts(sampled / "samples.jsonl", Path("out/reference/samples.jsonl"))
        records = judge_contests(judge, run_contests(samples, reference), truth)
        metrics = by_opponent(records, Intervals(params.confidence, params.seed))
        policy_sha256 = read_json(sampled / "metrics.json")["policy_sha256"]
        facts = {"confidence": params.confidence, "n": len(samples), "policy_sha256": policy_sha256}
        write_jsonl(out / "records.jsonl", records)
        write_json(out / "metrics.json", {**metrics, **facts})
    metrics |= judge.usage()  # for all of the run's policies
    write_json(stage.out / "metrics.json", {**metrics, **facts})
    stage.tracker.log_metrics(metrics)
    stage.tracker.log_to_policy(policy_sha256, metrics)
    stage.summary = (
        f"beats chosen in {metrics['win_rate/chosen']:.1%}, SFT in {metrics['win_rate/sft']:.1%} "
        f"({metrics['win_rate/sft_low']:.1%} to {metrics['win_rate/sft_high']:.1%}) of {len(samples)}"
    )
