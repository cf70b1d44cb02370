"""All of params.yaml: read by stages/check.py before anything runs, and by the tests of the presets.

`python -m epsilon_dpo.check.params_file` checks it even before DVC, which resolves the runs of dvc.yaml first and
has a message of its own for a misspelt `runs` or `method`.
"""

import sys
from pathlib import Path
from typing import Any

from pydantic import model_validator

from epsilon_dpo.analysis.kl.params import KLView
from epsilon_dpo.analysis.monotonicity.params import MonotonicityView
from epsilon_dpo.check.leftovers import remove_leftovers
from epsilon_dpo.check.tokens import file_of, require_tokens
from epsilon_dpo.data.contract.params import ValidateView
from epsilon_dpo.data.pairs.params import OnPolicyPairs, PairsView
from epsilon_dpo.data.sources.params import FetchView, ReviewsSource, SyntheticSource
from epsilon_dpo.judging.making.params import AnyJudge, JudgeView, SentimentJudge, TrainedRewardJudge
from epsilon_dpo.judging.margins.params import MarginsView
from epsilon_dpo.judging.scorer.params import PAIRWISE_JUDGES, ScorerView
from epsilon_dpo.judging.scoring.params import ScoreView
from epsilon_dpo.judging.tournament.params import TournamentView
from epsilon_dpo.methods.interface import Method, MethodConfig
from epsilon_dpo.methods.online import AnyMethod, OnlineMethod
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.models.base.params import Base, BaseView, EmbeddedModel, PretrainedModel
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json
from epsilon_dpo.pipeline.stage.params import PARAMS_FILE, parse, read_yaml
from epsilon_dpo.report.figures.params import FiguresView
from epsilon_dpo.report.page.params import ReportBlock
from epsilon_dpo.sampling.answers.params import SampleView
from epsilon_dpo.sampling.on_policy.params_candidates import CandidatesView
from epsilon_dpo.training.alignment.params import AlignView
from epsilon_dpo.training.loop.params import CheckpointsView
from epsilon_dpo.training.sft.params import SFTView

# Learning rates of full fine-tuning in the papers' presets, and how many times as high one is doubtful.
USUAL_SFT, USUAL_ALIGN, HIGH = 2e-5, 1e-6, 25


class ParamsFile(
    ReportBlock,
    FiguresView,
    TournamentView,
    MonotonicityView,
    KLView,
    ScoreView,
    SampleView,
    AlignView,
    ScorerView,
    MarginsView,
    PairsView,
    CandidatesView,
    SFTView,
    CheckpointsView,
    JudgeView,
    ValidateView,
    BaseView,
    FetchView,
):
    """Every block that some stage reads, and no other key."""

    @model_validator(mode="after")
    def _fits_the_embedded_model(self) -> "ParamsFile":
        """A pretrained model's positions are in its own files (`_require_positions`)."""
        if isinstance(self.base, EmbeddedModel):
            positions, name = self.base.max_position_embeddings, "base.max_position_embeddings"
            if fault := self.longer_than(positions, name, "lower the one or raise the other"):
                raise ValueError(fault)
        return self

    def longer_than(self, positions: int, name: str, remedy: str) -> str:
        """Which text of a length set here a model with so many positions has no place for; empty if it has for all."""
        for what, tokens in self.text_lengths().items():
            if tokens > positions:
                return f"{what} = {tokens} exceeds {name} = {positions}, so the model has no place for it; {remedy}"
        return ""

    def text_lengths(self) -> dict[str, int]:
        """How many tokens a model's text may have, by the values of params.yaml that let it."""
        prompt = self.tokens.max_prompt_length
        asked = {
            "tokens.max_length": self.tokens.max_length,
            "tokens.max_prompt_length + sample.max_new_tokens": prompt + self.sample.max_new_tokens,
        }
        if self.candidates is not None:
            asked["tokens.max_prompt_length + candidates.max_new_tokens"] = prompt + self.candidates.max_new_tokens
        for name, run in self.runs.items():
            if isinstance(drawn := run.get("max_new_tokens"), int):  # an online run's; its method checks the rest
                asked[f"tokens.max_prompt_length + runs.{name}.max_new_tokens"] = prompt + drawn
        return asked

    @model_validator(mode="after")
    def _a_reference_is_trained(self) -> "ParamsFile":
        if self.sft is None and isinstance(self.base, EmbeddedModel):
            raise ValueError(
                "sft: null makes the base model the reference, and a model of base.source: embedded has random "
                "weights; set base to a trained model (base.source: pretrained), or write an sft block"
            )
        return self

    @model_validator(mode="after")
    def _weights_can_take_small_steps(self) -> "ParamsFile":
        """What is trained whole is held in float32; an adapter is, and so is a policy that one was merged into."""
        if not isinstance(self.base, PretrainedModel) or self.base.dtype == "float32":
            return self
        first = ("align", self.align.lora) if self.sft is None else ("sft", self.sft.lora)
        if first[1] is None:
            raise ValueError(
                f"base.dtype: bfloat16 with {first[0]}.lora: null trains weights that keep two or three digits, so "
                f"that steps of small learning rates are lost; set base.dtype to float32 ({first[0]}.bf16: true still "
                f"computes in bfloat16), or give {first[0]}.lora its block"
            )
        return self

    @model_validator(mode="after")
    def _on_policy_pairs_need_candidates(self) -> "ParamsFile":
        if isinstance(self.pairs, OnPolicyPairs) != (self.candidates is not None):
            raise ValueError(
                "pairs.source: on_policy needs candidates, and nothing else reads them; set both, or set "
                "candidates: null and pairs.source: dataset"
            )
        return self

    @model_validator(mode="after")
    def _a_truth_is_known(self) -> "ParamsFile":
        for name, block in (("margins", self.margins), ("scorer", self.scorer)):
            if block is not None and block.source == "true_reward" and not isinstance(self.fetch, SyntheticSource):
                raise ValueError(
                    f"{name}.source: true_reward needs generated data (fetch.source: synthetic), the only data whose "
                    "reward is known; set it to judge"
                )
        return self

    @model_validator(mode="after")
    def _the_contract_can_be_met(self) -> "ParamsFile":
        for name in ("train_pairs", "eval_pairs"):
            key = name if hasattr(self.fetch, name) else f"max_{name}"  # generated pairs are as many as are asked for
            most, least = getattr(self.fetch, key, None), getattr(self.contract, f"min_{name}")
            if most is not None and most < least:
                raise ValueError(
                    f"fetch.{key} = {most} is below validate.min_{name} = {least}, so that no dataset would pass; "
                    "raise the one or lower the other"
                )
        return self

    @model_validator(mode="after")
    def _what_learns_preferences_has_some(self) -> "ParamsFile":
        """The pairs of labelled texts were compared by nobody (data/sources/reviews.py)."""
        if not isinstance(self.fetch, ReviewsSource):
            return self
        said = "the pairs of fetch.source: reviews are no preferences"
        for name, judge in self.judges.items():
            if judge.source in ("trained", "trained_reward"):
                raise ValueError(
                    f"{said}, and {name}.source: {judge.source} would learn from them; set it to sentiment, or to a "
                    "judge that is trained already"
                )
        if self.margins is not None and self.margins.temperature is None:
            raise ValueError(f"{said}, and margins.temperature: null would be fitted to them; state a number")
        if not isinstance(self.pairs, OnPolicyPairs):
            raise ValueError(f"{said} to train on; set pairs.source: on_policy, and candidates")
        return self

    @model_validator(mode="after")
    def _a_classifier_has_texts(self) -> "ParamsFile":
        for name, judge in self.judges.items():
            learns = isinstance(judge, SentimentJudge) and judge.classifier == "tfidf"
            if learns and not isinstance(self.fetch, ReviewsSource):
                raise ValueError(
                    f"{name}.classifier: tfidf is trained on texts with labels, which fetch.source: reviews alone has; "
                    "set it to vader, which is not trained, or fetch reviews"
                )
        return self

    @model_validator(mode="after")
    def _a_scorer_scores_single_answers(self) -> "ParamsFile":
        name, judge = list(self.judges.items())[-1]
        if self.scorer is not None and self.scorer.source == "judge" and judge.source in PAIRWISE_JUDGES:
            other = f", or a teacher that scores beside {name}" if self.teacher is None else ""
            raise ValueError(
                f"scorer.source: judge needs a judge that gives one answer a number, and {name}.source: "
                f"{judge.source} only compares two; choose one that scores, such as {name}.source: reward_model{other}"
            )
        return self

    @model_validator(mode="after")
    def _a_teacher_teaches(self) -> "ParamsFile":
        if self.teacher is None:
            return self
        if self.teacher == self.judge:
            raise ValueError(
                "teacher is the judge of block judge, which teaches where there is no other; set it to null"
            )
        asked = any(block is not None and block.source == "judge" for block in (self.margins, self.scorer))
        if not asked and not isinstance(self.pairs, OnPolicyPairs):
            raise ValueError(
                "nothing is learned from a teacher, which ranks candidates (pairs.source: on_policy), finds margins "
                "(margins.source: judge) and scores answers of online runs (scorer.source: judge); set teacher: null"
            )
        return self

    @property
    def judges(self) -> dict[str, AnyJudge]:
        """Those that are made, by block; the last is the one that policies learn from."""
        return {"judge": self.judge} if self.teacher is None else {"judge": self.judge, "teacher": self.teacher}

    @property
    def language_models(self) -> dict[str, Base]:
        """Those that trainings begin with, by block."""
        trained = {name: judge for name, judge in self.judges.items() if isinstance(judge, TrainedRewardJudge)}
        return {"base": self.base} | {f"{name}.model": judge.model for name, judge in trained.items()}


def load_file(path: Path = PARAMS_FILE) -> ParamsFile:
    """`path`, checked to the last value, each run by the method it names.

    Raises:
        UserError: one sentence per problem.
    """
    params = parse(ParamsFile, read_yaml(path), file=path)
    _require_positions(params, path)
    for where, model in params.language_models.items():
        if isinstance(model, PretrainedModel):
            require_tokens(model, where, path)
    methods = {name: method_of(name, config, path) for name, config in params.runs.items()}
    trained: dict[str, str] = {}
    for name, method in methods.items():
        twin = trained.setdefault(_training(method.config, params), name)
        if twin != name:
            raise UserError(
                f"{path}: runs.{twin} and runs.{name} are the same training; give one of them another seed, or remove "
                "it."
            )
    _require_what_runs_read(params, methods, path)
    return params


def _require_what_runs_read(params: ParamsFile, methods: dict[str, AnyMethod], path: Path) -> None:
    """Scores, a scorer and whatever else a run needs; and neither of the two for nobody."""
    for name, method in methods.items():
        if not isinstance(method, OnlineMethod):
            _require_for_pairs(params, name, method, path)
        elif params.scorer is None:
            raise UserError(
                f"{path}: runs.{name} of method {method.config.method} learns from scores of its own answers; set "
                "scorer: {source: true_reward} for generated data or {source: judge}, or remove the run."
            )
    online = any(isinstance(method, OnlineMethod) for method in methods.values())
    scored = any(method.needs_scores for method in methods.values() if not isinstance(method, OnlineMethod))
    if params.margins is not None and not scored:
        raise UserError(f"{path}: no run reads margins, which every training would depend on; set margins: null.")
    if params.scorer is not None and not online:
        raise UserError(f"{path}: no run learns from a scorer; set scorer: null, or add a run of rloo or ppo.")


def _require_for_pairs(params: ParamsFile, name: str, method: Method[Any], path: Path) -> None:
    """What a run that learns from pairs needs: scores, flip rates, pairs in a step, epochs for its snapshots."""
    kept, epochs = method.config.snapshot_epochs, params.align.num_train_epochs
    if kept is not None and params.align.max_steps is None and kept >= epochs:
        raise UserError(
            f"{path}: runs.{name}.snapshot_epochs = {kept:g} keeps no snapshot, since align.num_train_epochs is "
            f"{epochs:g}; lower it, or remove it."
        )
    if method.needs_scores and params.margins is None:
        raise UserError(
            f"{path}: runs.{name} of method {method.config.method} needs margins; set margins: {{source: judge, "
            "temperature: null}, or remove the run."
        )
    if method.needs_flip_rates and not _flip_rates_are_known(params):
        raise UserError(
            f"{path}: runs.{name}.flip_by needs pairs whose annotators are known, and only generated ones' are; "
            "set fetch.annotators with pairs.source: dataset, or state the run's label_smoothing instead."
        )
    if params.align.batch_size < method.min_pairs:
        raise UserError(
            f"{path}: runs.{name} needs at least {method.min_pairs} pairs in an optimizer step, but "
            f"align.batch_size is {params.align.batch_size}; raise it."
        )


def _flip_rates_are_known(params: ParamsFile) -> bool:
    """Of the training pairs, by annotator."""
    noisy = isinstance(params.fetch, SyntheticSource) and params.fetch.annotators is not None
    return noisy and not isinstance(params.pairs, OnPolicyPairs)


def _require_positions(params: ParamsFile, path: Path) -> None:
    """The longest text against the positions of a pretrained model, where its config.json is at hand already."""
    if not isinstance(params.base, PretrainedModel):
        return
    file = file_of(params.base, "config.json")
    which = "positions"
    try:
        if not file.is_file():
            return  # stage base says what is missing, and sft and sample hold the limits once it is there
        config = read_json(file)
        config = config.get("text_config", config)
        positions = config.get("max_position_embeddings", config.get("n_positions"))
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if "longrope" in rope.values():
            key = "original_max_position_embeddings"  # data/tokens/positions.py says why
            positions = config.get(key, rope.get(key))  # as transformers takes them
            which = "positions before LongRoPE's change"
    except OSError as error:
        raise UserError(
            f"{path}: {file} cannot be read ({error.strerror}); change its permissions, or copy the model."
        ) from None
    except (ValueError, AttributeError):
        raise UserError(
            f"{path}: {file}, the config of base.path, is no model's config.json: it is damaged or was copied in part; "
            "copy it anew."
        ) from None
    name, remedy = f"the {which} of {params.base.path}", "lower it, or take a model with more positions"
    if isinstance(positions, int) and (fault := params.longer_than(positions, name, remedy)):
        raise UserError(f"{path}: {fault}.")


def cautions(params: ParamsFile) -> list[str]:
    """What is allowed and hardly meant: runs that `max_steps` makes another method's, and the tiny default model's
    learning rates for all weights of a large one."""
    steps = params.align.max_steps
    methods = {name: method_of(name, config) for name, config in params.runs.items()}
    short = [
        f"runs.{name} is not yet {method.config.method} after align.max_steps = {steps} optimizer steps: with this "
        f"config it takes {method.min_steps}"
        for name, method in methods.items()
        if isinstance(method, Method) and steps is not None and steps < method.min_steps
    ]
    return short + _high_rates(params)


def _high_rates(params: ParamsFile) -> list[str]:
    if not isinstance(params.base, PretrainedModel):
        return []
    rates = [
        (name, block.learning_rate, usual)
        for name, block, usual in (("sft", params.sft, USUAL_SFT), ("align", params.align, USUAL_ALIGN))
        if block is not None and block.lora is None
    ]
    if params.align.lora is None:
        own = ((f"runs.{name}", run.get("learning_rate")) for name, run in params.runs.items())
        rates += [(name, rate, USUAL_ALIGN) for name, rate in own if isinstance(rate, int | float)]
    return [
        f"{name}.learning_rate = {rate:g} is high for all weights of a large model (usual: {usual:g})"
        for name, rate, usual in rates
        if rate > HIGH * usual
    ]


def _training(config: MethodConfig, params: ParamsFile) -> str:
    """What makes a run's policy: its config, the seed and the learning rate it is trained with among them."""
    seed = params.seed if config.seed is None else config.seed
    rate = params.align.learning_rate if config.learning_rate is None else config.learning_rate
    update = {"seed": seed, "learning_rate": rate, "snapshot_epochs": None}
    return config.model_copy(update=update).model_dump_json()


if __name__ == "__main__":
    try:
        if removed := remove_leftovers(list(load_file().runs)):
            print(f"removed what is left of {', '.join(removed)}")
    except UserError as error:
        sys.exit(f"ERROR: {error}")
