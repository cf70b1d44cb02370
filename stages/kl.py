"""kl: the distance of a policy from the reference, in both directions. `python -m stages.kl RUN`"""

from pathlib import Path

from epsilon_dpo.analysis.kl.params import KLView
from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_argument, run_stage
from epsilon_dpo.pipeline.stage.params import load

with heavy_imports(computes=True):
    from epsilon_dpo.analysis.kl.records import kl_run
    from epsilon_dpo.pipeline.stage.runs import readable
    from epsilon_dpo.pipeline.stage.runtime import set_up

run = run_argument()
with run_stage("kl", run) as stage:
    params = load(KLView)
    set_up(0, params.threads)  # nothing is drawn here
    metrics, facts = kl_run(
        Path("out/align") / run,
        Path("out/sample") / run,
        reference=Path("out/sft/model"),
        reference_samples=Path("out/reference/samples.jsonl"),
        pairs=Path("out/pairs/eval.jsonl"),
        params=params.kl,
        confidence=params.confidence,
        out=stage.out,
        journal=stage.journal,
    )
    on_the_row = ("kl_fwd_rb", "kl_fwd_rb_se", "kl_fwd_mc", "kl_fwd_data", "kl_rev_rb")
    kls = readable(metrics, facts.get("sampled_under", ""))
    if "sampled_under" in facts:
        stage.tracker.log_metrics(metrics)  # before the policy is named, so that they are no metrics of it
    stage.tracker.set_tags({"policy_sha256": facts["policy_sha256"]})
    if "sampled_under" not in facts:
        stage.tracker.log_metrics(metrics)
    stage.tracker.log_to_policy(facts["policy_sha256"], {name: kls[name] for name in on_the_row if name in kls})
    stage.summary = (
        f"KL(reference || policy) = {metrics['kl_fwd_rb']:.3f} ± {metrics['kl_fwd_rb_se']:.3f} nats per answer, "
        f"reverse {metrics['kl_rev_rb']:.3f} ± {metrics['kl_rev_rb_se']:.3f}"
    )
    if "sampled_under" in facts:
        stage.summary = f"under {facts['sampled_under']}, so not the policy's KL: {stage.summary}"
