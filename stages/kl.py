"""kl: the distance of a policy from the reference, on the reference's own answers. `python -m stages.kl RUN`"""

from pathlib import Path

from epsilon_dpo.fingerprint import digest
from epsilon_dpo.kl import forward_kl, summary
from epsilon_dpo.outputs import read_json, read_jsonl, write_json, write_jsonl
from epsilon_dpo.params.kl import KLView
from epsilon_dpo.params.strict import load
from epsilon_dpo.runtime import set_up
from epsilon_dpo.stage import run_argument, run_stage

run = run_argument()
with run_stage("kl", run) as stage:
    params = load(KLView)
    set_up(0, params.threads)  # nothing is drawn here
    policy = Path("out/align") / run / "model"
    samples = read_jsonl(Path("out/reference/samples.jsonl"))
    records = forward_kl(policy, Path("out/sft/model"), samples, params.kl)
    metrics = summary(records, params.kl.confidence)
    policy_sha256 = digest(policy)
    temperature = read_json(Path("out/reference/metrics.json"))["temperature"]
    write_jsonl(stage.out / "records.jsonl", records)
    write_json(
        stage.out / "metrics.json", {**metrics, "sample_temperature": temperature, "policy_sha256": policy_sha256}
    )
    stage.tracker.log_metrics(metrics)
    stage.tracker.log_to_policy(
        policy_sha256, {key: metrics[key] for key in ("kl_fwd_rb", "kl_fwd_rb_se", "kl_fwd_mc")}
    )
    stage.summary = (
        f"KL(reference || policy) = {metrics['kl_fwd_rb']:.3f} ± {metrics['kl_fwd_rb_se']:.3f} nats per answer"
    )
