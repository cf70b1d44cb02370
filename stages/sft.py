"""sft: the reference policy, the base model fine-tuned on the chosen answers."""

from pathlib import Path

from epsilon_dpo.params.sft import SFTView
from epsilon_dpo.params.strict import load
from epsilon_dpo.runtime import set_up
from epsilon_dpo.sft import fine_tune
from epsilon_dpo.stage import run_stage
from epsilon_dpo.training_result import without_evaluation

with run_stage("sft") as stage:
    params = load(SFTView)
    set_up(params.seed, params.threads)
    metrics = fine_tune(
        params.sft,
        params.tokens,
        params.seed,
        base=Path("out/base"),
        validated=Path("out/validate"),
        out=stage.out,
        scratch=stage.scratch,
        track=stage.tracker.log_metrics,
    )
    stage.tracker.log_metrics(without_evaluation(metrics))
    stage.summary = f"eval loss {metrics['eval_loss']:.4f}, {metrics['steps']} steps"
