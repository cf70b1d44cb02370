"""All of params.yaml: read by stages/check.py before anything runs, and by the tests of the presets.

`python -m epsilon_dpo.check.params_file` checks it even before DVC, which resolves the runs of dvc.yaml first and
has a message of its own for a misspelt `runs` or `method`.
"""

import sys
from pathlib import Path

from pydantic import model_validator

from epsilon_dpo.analysis.kl.params import KLView
from epsilon_dpo.analysis.monotonicity.params import MonotonicityView
from epsilon_dpo.data.contract.params import ValidateView
from epsilon_dpo.data.pairs.params import OnPolicyPairs, PairsView
from epsilon_dpo.data.sources.params import FetchView
from epsilon_dpo.judging.making.params import JudgeView
from epsilon_dpo.judging.scoring.params import ScoreView
from epsilon_dpo.judging.tournament.params import TournamentView
from epsilon_dpo.methods.interface import MethodConfig
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.models.base.params import BaseView, EmbeddedModel
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.params import PARAMS_FILE, parse, read_yaml
from epsilon_dpo.report.figures.params import FiguresView
from epsilon_dpo.report.page.params import ReportView
from epsilon_dpo.sampling.answers.params import SampleView
from epsilon_dpo.sampling.on_policy.params_candidates import CandidatesView
from epsilon_dpo.training.alignment.params import AlignView
from epsilon_dpo.training.sft.params import SFTView


class ParamsFile(
    ReportView,
    FiguresView,
    TournamentView,
    MonotonicityView,
    KLView,
    ScoreView,
    SampleView,
    AlignView,
    PairsView,
    CandidatesView,
    SFTView,
    JudgeView,
    ValidateView,
    BaseView,
    FetchView,
):
    """Every block that some stage reads, and no other key."""

    @model_validator(mode="after")
    def _fits_the_embedded_model(self) -> "ParamsFile":
        """A pretrained model's positions are known only once it is there, where stage `sample` holds them."""
        if isinstance(self.base, EmbeddedModel):
            prompt, positions = self.tokens.max_prompt_length, self.base.max_position_embeddings
            asked = {
                "tokens.max_length": self.tokens.max_length,
                "tokens.max_prompt_length + sample.max_new_tokens": prompt + self.sample.max_new_tokens,
            }
            if self.candidates is not None:
                asked["tokens.max_prompt_length + candidates.max_new_tokens"] = prompt + self.candidates.max_new_tokens
            for what, tokens in asked.items():
                if tokens > positions:
                    raise ValueError(
                        f"{what} = {tokens} exceeds base.max_position_embeddings = {positions}, so the model has no "
                        "place for such a text; lower the one or raise the other"
                    )
        return self

    @model_validator(mode="after")
    def _a_reference_is_trained(self) -> "ParamsFile":
        if self.sft is None and isinstance(self.base, EmbeddedModel):
            raise ValueError(
                "sft: null takes the base model as the reference, and that of base.source: embedded has random "
                "weights; set base to a trained model (base.source: pretrained), or give sft its block"
            )
        return self

    @model_validator(mode="after")
    def _on_policy_pairs_need_candidates(self) -> "ParamsFile":
        if isinstance(self.pairs, OnPolicyPairs) != (self.candidates is not None):
            raise ValueError(
                "pairs.source: on_policy is made of candidates, and nothing else is: set both, or "
                "candidates: null with pairs.source: dataset"
            )
        return self


def load_file(path: Path = PARAMS_FILE) -> ParamsFile:
    """`path`, checked to the last value, each run by the method it names.

    Raises:
        UserError: one sentence per problem.
    """
    params = parse(ParamsFile, read_yaml(path))
    pairs = params.align.per_device_train_batch_size * params.align.gradient_accumulation_steps
    trained: dict[str, str] = {}
    for name, config in params.runs.items():
        method = method_of(name, config)
        twin = trained.setdefault(_training(method.config, params.seed), name)
        if twin != name:
            raise UserError(
                f"{path}: runs.{twin} and runs.{name} are the same training; give one of them another seed, or remove "
                "it."
            )
        needed = method.min_pairs
        if pairs < needed:
            raise UserError(
                f"{path}: runs.{name} needs at least {needed} pairs in an optimizer step, but align has {pairs}; raise "
                "align.per_device_train_batch_size or align.gradient_accumulation_steps."
            )
    return params


def _training(config: MethodConfig, seed: int) -> str:
    """What makes a run's policy: its config, the seed it is trained with among them."""
    own = seed if config.seed is None else config.seed
    return config.model_copy(update={"seed": own, "snapshot_epochs": None}).model_dump_json()


if __name__ == "__main__":
    try:
        load_file()
    except UserError as error:
        sys.exit(f"ERROR: {error}")
