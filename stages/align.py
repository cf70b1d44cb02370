"""align: one policy from the SFT model by one run's method. `python -m stages.align RUN`"""

from pathlib import Path

from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_argument, run_stage
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.params import load
from epsilon_dpo.training.alignment.params import AlignView

with heavy_imports():
    from epsilon_dpo.pipeline.machine.runtime import set_up
    from epsilon_dpo.training.alignment.alignment import align
    from epsilon_dpo.training.loop.result import without_evaluation

run = run_argument()
with run_stage("align", run) as stage:
    params = load(AlignView, run=run)
    set_up(params.seed, params.threads)
    metrics = align(
        method_of(run, params.runs[run]),
        params.align,
        params.seed,
        sft_model=Path("out/sft/model"),
        pairs=Path("out/pairs"),
        out=stage.out,
        scratch=stage.scratch,
        track=stage.tracker.log_metrics,
        margins=Path("out/margins"),
    )
    stage.tracker.log_metrics(without_evaluation(metrics))
    stage.tracker.set_tags({"policy_sha256": digest(stage.out / "model")})
    stage.summary = (
        f"eval loss {metrics['eval_loss']:.4f}, accuracy {metrics['eval_rewards/accuracies']:.3f}, "
        f"{metrics['steps']} steps"
    )
