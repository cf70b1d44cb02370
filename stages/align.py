"""align: one policy from the SFT model by one run's method. `python -m stages.align RUN`"""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from epsilon_dpo.methods.online import OnlineMethod
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.stage.execution import Stage, heavy_imports, run_argument, run_stage
from epsilon_dpo.pipeline.stage.files import Json, read_json
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.params import load, parse
from epsilon_dpo.pipeline.stage.runs import FACTS, SNAPSHOTS
from epsilon_dpo.training.alignment.params import AlignView
from epsilon_dpo.training.loop.params import save_steps

with heavy_imports(computes=True):
    from epsilon_dpo.pipeline.launch.processes import Track, run_part
    from epsilon_dpo.pipeline.stage.runtime import set_up
    from epsilon_dpo.training.alignment.alignment import align
    from epsilon_dpo.training.alignment.snapshots import part_metrics
    from epsilon_dpo.training.loop.result import without_evaluation


# Online runs alone import it, by this name: stage scorer depends on its code and this stage does not, so that another
# judge or sampler does not train the policies of given pairs again.
ONLINE = "epsilon_dpo.judging.scorer.online_training"


def online(method: OnlineMethod[Any]) -> Callable[..., dict[str, float]]:
    """What trains by the method's own answers."""
    scorer = Path("out/scorer") / method.config.method
    return importlib.import_module(ONLINE).online_training(method, scorer, Path("out/sft/model"))


def read_by(method: Any) -> list[Path]:
    """The files of the data and of the scorer that a policy of `method` is made of."""
    if not isinstance(method, OnlineMethod):
        return [Path("out") / part / "train.jsonl" for part in ("pairs", *(("margins",) * method.needs_scores))]
    folder = Path("out/scorer") / method.config.method
    return [file for name in ("*.json", "train_prompts.jsonl", "judge/judge.json") for file in folder.glob(name)]


def train(arguments: Json, track: Track) -> dict[str, float]:
    """In one of the launcher's processes, or in the stage's own."""
    run, params = arguments["run"], parse(AlignView, arguments["params"])
    set_up(params.seed, params.threads)
    method = method_of(run, params.runs[run])
    do = online(method) if isinstance(method, OnlineMethod) else partial(align, margins=Path("out/margins"))
    return do(
        method,
        params.align,
        params.seed,
        sft_model=Path("out/sft/model"),
        pairs=Path("out/pairs"),
        out=Path(arguments["out"]),
        scratch=Path(arguments["scratch"]),
        track=track,
        save_steps=arguments["save_steps"],
    )


def publish(stage: Stage, run: str, entry: Json, metrics: dict[str, float]) -> None:
    """What the training left in `stage.out`, with where it comes from."""
    part_metrics(stage.out, stage.apart)
    method = method_of(run, entry)
    made_of = {"read": read_by(method), "start": Path("out/sft/model")}
    snapshots = sorted(stage.out.glob(f"{SNAPSHOTS}/*"))
    stage.write_manifest(stage.out / "model", **made_of)
    for snapshot in snapshots:
        stage.write_manifest(snapshot / "model", **made_of, snapshot=read_json(snapshot / FACTS))
    stage.tracker.log_metrics(without_evaluation(metrics))
    policies = {f"policy_sha256/{SNAPSHOTS}/{path.name}": path for path in snapshots} | {"policy_sha256": stage.out}
    stage.tracker.set_tags({name: digest(path / "model") for name, path in policies.items()})
    stage.summary = (
        f"eval loss {metrics['eval_loss']:.4f}, accuracy {metrics['eval_rewards/accuracies']:.3f}, "
        f"{metrics['steps']} steps"
    )
    if not isinstance(method, OnlineMethod) and method.moves_reference and metrics["steps"] < method.min_steps:
        stage.summary += "; no step saw a moved reference (sync_steps), so this is DPO's policy"


if __name__ == "__main__":
    run = run_argument()
    with run_stage("align", run) as stage:
        params = load(AlignView, run=run)
        arguments = {"run": run, "params": params.model_dump(), "save_steps": save_steps(), **stage.folders}
        metrics = run_part(train, arguments, stage.tracker.log_metrics)[0]
        publish(stage, run, params.runs[run], metrics)
