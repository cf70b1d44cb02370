"""base: the model that SFT starts from, with its tokenizer, chat template and stop token."""

from pathlib import Path

from epsilon_dpo.models.base.params import BaseView, PretrainedModel
from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_stage
from epsilon_dpo.pipeline.stage.params import load

with heavy_imports():
    from transformers.utils import logging

    from epsilon_dpo.models.base.model_folder import write_model
    from epsilon_dpo.models.base.starting_point import starting_point
    from epsilon_dpo.models.base.template import notes
    from epsilon_dpo.models.logps.head import check_head

with run_stage("base") as stage:
    params = load(BaseView)
    logging.set_verbosity_error()  # what matters in its reports is raised as one sentence
    model, tokenizer = starting_point(params.base, Path("out/fetch/train.jsonl"), params.seed)
    check_head(model)  # as stage `align` does, which would refuse it only after hours of SFT
    write_model(model, tokenizer, stage.out)
    stage.write_manifest(stage.out / "model")
    parameters = model.num_parameters()
    stage.tracker.log_metrics({"parameters": float(parameters), "vocabulary": float(len(tokenizer))}, step=0)
    stage.summary = (
        f"{type(model).__name__}, {parameters / 1e6:.2f} M parameters, {len(tokenizer)} tokens, "
        f"answers end with {tokenizer.eos_token}"
    )
    if isinstance(params.base, PretrainedModel) and (found := notes(tokenizer)):
        stage.summary += f"; its chat template {', '.join(found)}"
