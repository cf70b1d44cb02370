"""`fetch`: which preference dataset, exactly which version of it, and how it is split."""

from typing import Annotated, Literal

from pydantic import Field

from epsilon_dpo.params.strict import Strict

Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class SyntheticSource(Strict):
    """The embedded dataset: dialogues with a known true reward (data/synthetic.py), generated from the seed."""

    source: Literal["synthetic"]
    train_pairs: Annotated[int, Field(ge=1)]
    eval_share: Share  # of the distinct prompts; no prompt is in both parts
    label_temperature: Annotated[float, Field(ge=0.0)]  # Bradley-Terry draw of the label; 0: the better answer always wins


class HHSource(Strict):
    """Anthropic-HH in its native form: folders such as harmless-base/ with train.jsonl.gz and test.jsonl.gz."""

    source: Literal["hh"]
    repo: str  # Hub dataset, read at `revision` when `folder` is null
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]  # a commit: branch names move
    folder: str | None  # a local copy with the same layout; nothing is downloaded then
    subsets: Annotated[list[str], Field(min_length=1)]  # e.g. harmless-base
    train_split: str  # file stem, `train` in the original
    eval_split: str  # `test` in the original; equal to train_split: eval_share of the prompts are set aside
    eval_share: Share | None  # read only when both splits are one file
    max_train_pairs: Annotated[int, Field(ge=1)] | None  # null: all
    max_eval_pairs: Annotated[int, Field(ge=1)] | None


class FetchView(Strict):
    """What stages/fetch.py reads."""

    seed: int
    fetch: Annotated[SyntheticSource | HHSource, Field(discriminator="source")]
