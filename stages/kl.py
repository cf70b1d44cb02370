"""kl: the distance of a policy from the reference, in both directions. `python -m stages.kl RUN`"""

from pathlib import Path

from epsilon_dpo.errors import UserError
from epsilon_dpo.fingerprint import digest
from epsilon_dpo.kl import described, summary
from epsilon_dpo.kl_records import kl_records
from epsilon_dpo.outputs import read_json, read_jsonl, write_json, write_jsonl
from epsilon_dpo.params.kl import KLView
from epsilon_dpo.params.strict import load
from epsilon_dpo.runs import make_place, policy_paths
from epsilon_dpo.runtime import set_up
from epsilon_dpo.stage import run_argument, run_stage

run = run_argument()
with run_stage("kl", run) as stage:
    params = load(KLView)
    set_up(0, params.threads)  # nothing is drawn here
    aligned = Path("out/align") / run
    for place in policy_paths(aligned):  # the final policy comes last
        policy, sampled, out = aligned / place / "model", Path("out/sample") / run / place, make_place(stage.out, place)
        policy_sha256 = digest(policy)
        facts = read_json(sampled / "metrics.json")
        if facts["policy_sha256"] != policy_sha256:
            raise UserError(f"{sampled} holds the answers of another policy than {policy}; run `dvc repro`.")
        records = kl_records(
            policy,
            Path("out/sft/model"),  # the initial reference, also of a method that moves its own
            reference_samples=read_jsonl(Path("out/reference/samples.jsonl")),
            policy_samples=read_jsonl(sampled / "samples.jsonl"),
            pairs=read_jsonl(Path("out/pairs/eval.jsonl")),
            params=params.kl,
        )
        metrics = summary(records, params.confidence)
        facts = {"sample_temperature": facts["temperature"], "policy_sha256": policy_sha256}
        write_jsonl(out / "records.jsonl", records)
        write_json(out / "metrics.json", {**metrics, **facts})
    write_json(stage.out / "estimators.json", described(params.confidence))
    stage.tracker.log_metrics(metrics)
    on_the_row = ("kl_fwd_rb", "kl_fwd_rb_se", "kl_fwd_mc", "kl_fwd_data", "kl_rev_rb")
    stage.tracker.log_to_policy(policy_sha256, {name: metrics[name] for name in on_the_row})
    stage.summary = (
        f"KL(reference || policy) = {metrics['kl_fwd_rb']:.3f} ± {metrics['kl_fwd_rb_se']:.3f} nats per answer, "
        f"reverse {metrics['kl_rev_rb']:.3f} ± {metrics['kl_rev_rb_se']:.3f}"
    )
