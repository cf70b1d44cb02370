"""`fetch`: which preference dataset, exactly which version of it, and how it is split."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from epsilon_dpo.pipeline.stage.params import Seed, Strict

Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class SyntheticSource(Strict):
    """The embedded dataset: dialogues with a known true reward (data/generated/truth.py), generated from the seed."""

    source: Literal["synthetic"]
    train_pairs: Annotated[int, Field(ge=1)]
    eval_share: Share  # of the distinct prompts; no prompt is in both parts
    label_temperature: Annotated[float, Field(ge=0.0)]  # of the Bradley-Terry label; 0: the better answer wins


class HHSource(Strict):
    """Anthropic-HH in its native form: folders such as harmless-base/ with train.jsonl.gz and test.jsonl.gz.

    Either from the Hub (`repo` and `revision`, `folder` null) or from a local copy (`folder`, the other two null).
    """

    source: Literal["hh"]
    repo: str | None  # Hub dataset
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None  # a commit: branch names move
    folder: str | None  # relative to the project's root; DVC does not watch it (`dvc repro -f fetch` reads it again)
    subsets: Annotated[list[str], Field(min_length=1)]  # e.g. harmless-base
    train_split: str  # file stem, `train` in the original
    eval_split: str  # `test` in the original; equal to train_split: eval_share of the prompts are set aside
    eval_share: Share | None  # read only when both splits are one file
    max_train_pairs: Annotated[int, Field(ge=1)] | None  # a sample drawn with the seed; null: all
    max_eval_pairs: Annotated[int, Field(ge=1)] | None

    @model_validator(mode="after")
    def _one_place_to_read_from(self) -> "HHSource":
        if self.folder is None and (self.repo is None or self.revision is None):
            raise ValueError("set folder to a local copy, or repo and revision to a dataset on the Hub")
        if self.folder is not None and (self.repo is not None or self.revision is not None):
            raise ValueError("folder is a local copy, so repo and revision would not be read: set them to null")
        return self

    @model_validator(mode="after")
    def _splits_are_possible(self) -> "HHSource":
        if self.train_split == self.eval_split and self.eval_share is None:
            raise ValueError("train_split and eval_split are one file, so eval_share must say how much is set aside")
        if len(set(self.subsets)) < len(self.subsets):
            raise ValueError("subsets names one folder twice")
        return self


class FetchView(Strict):
    """What stages/fetch.py reads."""

    seed: Seed
    fetch: Annotated[SyntheticSource | HHSource, Field(discriminator="source")]
