"""sft: the reference policy, the base model fine-tuned on the chosen answers, or as it is (`sft: null`)."""

from pathlib import Path

from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_stage
from epsilon_dpo.pipeline.stage.params import load
from epsilon_dpo.training.loop.params import save_steps
from epsilon_dpo.training.sft.params import SFTView

with heavy_imports():
    from epsilon_dpo.pipeline.machine.runtime import set_up
    from epsilon_dpo.training.loop.result import without_evaluation
    from epsilon_dpo.training.sft.given import take_given
    from epsilon_dpo.training.sft.sft import fine_tune

with run_stage("sft") as stage:
    params = load(SFTView)
    validated, start = Path("out/validate"), Path("out/base/model")
    if params.sft is None:
        take_given(Path("out/base"), params.tokens, stage.out)
        stage.write_manifest(stage.out / "model", start=start)
        stage.summary = "no SFT: the base model is the reference"
    else:
        set_up(params.seed, params.threads)
        metrics = fine_tune(
            params.sft,
            params.tokens,
            params.seed,
            base=Path("out/base"),
            validated=validated,
            out=stage.out,
            scratch=stage.scratch,
            track=stage.tracker.log_metrics,
            save_steps=save_steps(),
        )
        trained_on = {"read": [validated / "train.jsonl"], "dataset": validated / "dataset.json"}
        stage.write_manifest(stage.out / "model", start=start, **trained_on)
        stage.tracker.log_metrics(without_evaluation(metrics))
        stage.summary = f"eval loss {metrics['eval_loss']:.4f}, {metrics['steps']} steps"
