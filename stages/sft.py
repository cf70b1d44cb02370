"""sft: the reference policy, the base model fine-tuned on the chosen answers, or as it is (`sft: null`)."""

from pathlib import Path

from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_stage
from epsilon_dpo.pipeline.stage.files import Json
from epsilon_dpo.pipeline.stage.params import load, parse
from epsilon_dpo.training.loop.params import save_steps
from epsilon_dpo.training.sft.params import SFTView

with heavy_imports(computes=True):
    from epsilon_dpo.pipeline.launch.processes import Track, run_part
    from epsilon_dpo.pipeline.stage.runtime import set_up
    from epsilon_dpo.training.loop.result import without_evaluation
    from epsilon_dpo.training.sft.given import take_given
    from epsilon_dpo.training.sft.sft import fine_tune

VALIDATED, START = Path("out/validate"), Path("out/base/model")


def train(arguments: Json, track: Track) -> dict[str, float]:
    """In one of the launcher's processes, or in the stage's own."""
    params = parse(SFTView, arguments["params"])
    assert params.sft is not None
    set_up(params.seed, params.threads)
    return fine_tune(
        params.sft,
        params.tokens,
        params.seed,
        base=Path("out/base"),
        validated=VALIDATED,
        out=Path(arguments["out"]),
        scratch=Path(arguments["scratch"]),
        track=track,
        save_steps=arguments["save_steps"],
    )


if __name__ == "__main__":
    with run_stage("sft") as stage:
        params = load(SFTView)
        if params.sft is None:
            take_given(Path("out/base"), params.tokens, stage.out)
            stage.write_manifest(stage.out / "model", start=START)
            stage.summary = "no SFT: the base model is the reference"
        else:
            arguments = {"params": params.model_dump(), "save_steps": save_steps(), **stage.folders}
            metrics = run_part(train, arguments, stage.tracker.log_metrics)[0]
            trained_on = {"read": [VALIDATED / "train.jsonl"], "dataset": VALIDATED / "dataset.json"}
            stage.write_manifest(stage.out / "model", start=START, **trained_on)
            stage.tracker.log_metrics(without_evaluation(metrics))
            stage.summary = f"eval loss {metrics['eval_loss']:.4f}, {metrics['steps']} steps"
