"""`fetch`: which preference dataset, exactly which version of it, and how it is split."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from epsilon_dpo.data.shapes.interface import Choose
from epsilon_dpo.data.shapes.recognition import COLUMNS
from epsilon_dpo.pipeline.stage.params import COMMIT, Name, Seed, Strict

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Commit = Annotated[str, Field(pattern=COMMIT)]  # branch names move
Limit = Annotated[int, Field(ge=1)] | None
WATCHED = "data"  # the folder that dvc.yaml declares as a dependency of fetch


def lies_in_data(path: str) -> bool:
    """Whether `path`, relative to the project's root, is below data/, which DVC watches."""
    parts = PurePosixPath(path).parts
    return len(parts) > 1 and parts[0] == WATCHED and ".." not in parts


class Annotator(Strict):
    """Who labels a share of the training pairs, and gets a share of these wrong."""

    share: Annotated[float, Field(gt=0.0, le=1.0)]
    flip: Annotated[float, Field(ge=0.0, lt=0.5)]  # 1 minus the annotator's accuracy


class SyntheticSource(Strict):
    """The embedded dataset: dialogues with a known true reward (data/generated/truth.py), generated from the seed."""

    source: Literal["synthetic"]
    train_pairs: Annotated[int, Field(ge=1)]
    eval_share: Share  # of the distinct prompts; no prompt is in both parts
    label_temperature: Annotated[float, Field(ge=0.0)]  # of the Bradley-Terry label; 0: the better answer wins
    # Noise on the training labels (noise.py); the evaluation pairs, which policies are measured on, have none.
    annotators: Annotated[list[Annotator], Field(min_length=1)] | None = None  # null: nobody flips a label
    outliers: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # share of labels that are a fair coin
    # More than 2: a label says which of so many answers is best, and makes a pair of it with each of the others.
    answers_per_prompt: Annotated[int, Field(ge=2, le=16)] = 2

    @model_validator(mode="after")
    def _annotators_label_all_pairs(self) -> "SyntheticSource":
        total = sum(one.share for one in self.annotators or [])
        if self.annotators is not None and abs(total - 1.0) > 1e-6:
            raise ValueError(f"the shares of annotators sum to {total:g}, not to 1")
        return self

    @model_validator(mode="after")
    def _a_choice_makes_whole_pairs(self) -> "SyntheticSource":
        pairs = self.answers_per_prompt - 1
        if self.train_pairs % pairs:
            raise ValueError(
                f"the best of {pairs + 1} answers makes {pairs} pairs, and train_pairs is no multiple of that; choose "
                f"{self.train_pairs - self.train_pairs % pairs or pairs}"
            )
        if pairs > 1 and (self.annotators is not None or self.outliers > 0.0):
            raise ValueError(
                "noise is of labels of two answers: a wrong best of several turns over some of its pairs and not "
                "others; set answers_per_prompt to 2, or annotators to null and outliers to 0.0"
            )
        return self


class HHSource(Strict):
    """Anthropic-HH in its native form: folders such as harmless-base/ with train.jsonl.gz and test.jsonl.gz.

    Either from the Hub (`repo` and `revision`, `folder` null) or from a local copy (`folder`, the other two null).
    """

    source: Literal["hh"]
    repo: str | None  # Hub dataset
    revision: Commit | None
    folder: str | None  # below data/, which DVC watches
    subsets: Annotated[list[str], Field(min_length=1)]  # e.g. harmless-base
    train_split: str  # file stem, `train` in the original
    eval_split: str  # `test` in the original; equal to train_split: eval_share of the dialogues are set aside
    eval_share: Share | None  # read only when both splits are one file
    max_train_pairs: Limit  # a sample drawn with the seed; null: all
    max_eval_pairs: Limit

    @model_validator(mode="after")
    def _one_place_to_read_from(self) -> "HHSource":
        if self.folder is None and (self.repo is None or self.revision is None):
            raise ValueError("set folder to a local copy, or repo and revision to a dataset on the Hub")
        if self.folder is not None and (self.repo is not None or self.revision is not None):
            raise ValueError("folder is a local copy, so repo and revision would not be read: set them to null")
        return self

    @model_validator(mode="after")
    def _names_stay_in_the_folder(self) -> "HHSource":
        """Beyond it DVC would not see a change."""
        splits = [("train_split", self.train_split), ("eval_split", self.eval_split)]
        for key, name in [*(("subsets", subset) for subset in self.subsets), *splits]:
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or (key != "subsets" and len(parts) > 1):
                raise ValueError(f"{key} names {name!r}, which is no name within the folder; write a plain name")
        return self

    @model_validator(mode="after")
    def _splits_are_possible(self) -> "HHSource":
        if self.train_split == self.eval_split and self.eval_share is None:
            raise ValueError("train_split and eval_split are one file, so eval_share must say how much is set aside")
        if len(set(self.subsets)) < len(self.subsets):
            raise ValueError("subsets names one folder twice")
        return self


class DatasetSource(Strict):
    """Any published shape of preference data (docs/datasets.md), from the Hub or from files below data/."""

    source: Literal["dataset"]
    path: str  # a Hub dataset (owner/name), or a file, a folder or a glob of files below data/
    revision: Commit | None  # of the Hub dataset; null: local files
    name: str | None  # the dataset's configuration, where it has several
    train_split: str  # `train`, or with the syntax of `datasets`: train_prefs[:5%], a+b; of single files always `train`
    eval_split: str | None  # null: eval_share of train_split's dialogues are set aside
    eval_share: Share | None
    columns: Annotated[dict[str, str], Field(min_length=1)] | None  # null: recognised; else {prompt: question, ...}
    pairs: Choose  # of n scored answers: the best and the worst, or all that differ in score
    min_margin: Annotated[float, Field(ge=0.0)] | None  # of scores, in the data's unit; pairs below it are dropped
    max_train_pairs: Limit  # a sample drawn with the seed; null: all
    max_eval_pairs: Limit

    @model_validator(mode="after")
    def _held_out_in_one_way(self) -> "DatasetSource":
        if (self.eval_split is None) == (self.eval_share is None):
            raise ValueError("set either eval_split or eval_share, and the other to null")
        if self.train_split == self.eval_split:
            raise ValueError("train_split and eval_split are the same rows; set eval_split to null and eval_share")
        return self

    @model_validator(mode="after")
    def _columns_are_known(self) -> "DatasetSource":
        unknown = sorted(set(self.columns or {}) - COLUMNS)
        if unknown:
            raise ValueError(
                f"columns maps to {unknown[0]!r}, which no shape reads; docs/datasets.md names what they read, such as "
                "{prompt: question, chosen: good, rejected: bad}"
            )
        mapped = list((self.columns or {}).values())
        twice = next((column for column in mapped if mapped.count(column) > 1), None)
        if twice is not None:
            raise ValueError(f"columns maps to the column {twice!r} twice; a column is one thing")
        return self


Single = Annotated[SyntheticSource | HHSource | DatasetSource, Field(discriminator="source")]


class Member(Strict):
    share: Annotated[float, Field(gt=0.0, le=1.0)]  # of the mixture's pairs
    fetch: Single  # a block as it would stand alone


class MixtureSource(Strict):
    """Several sources, by names that their rows keep: as many pairs as the shares allow, drawn with the seed."""

    source: Literal["mixture"]
    members: Annotated[dict[Name, Member], Field(min_length=2)]

    @model_validator(mode="after")
    def _shares_are_a_whole(self) -> "MixtureSource":
        total = sum(member.share for member in self.members.values())
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"the shares of members sum to {total:g}, not to 1")
        return self


class ReviewsSource(Strict):
    """Texts labelled positive or negative (reviews.py): what a language model and a sentiment classifier learn from."""

    source: Literal["reviews"]
    file: str  # a CSV file below data/ with the columns text, label (0 or 1) and source
    part: Annotated[str, Field(min_length=1)]  # rows whose column source says so, such as rotten_tomatoes or imdb
    classifier_share: Share  # of the texts, for judge.source: sentiment
    prompts_share: Share  # for evaluation; the rest is the language model's
    prompt_words: Annotated[int, Field(ge=1)]  # between spaces; the first ones of a text are its prompt
    answer_words: Annotated[int, Field(ge=1)] | None  # of a text after its prompt; null: all
    max_train_pairs: Limit  # a sample drawn with the seed; null: all
    max_eval_pairs: Limit

    @model_validator(mode="after")
    def _something_is_left_to_learn(self) -> "ReviewsSource":
        if self.classifier_share + self.prompts_share >= 1.0:
            raise ValueError(
                f"classifier_share = {self.classifier_share} and prompts_share = {self.prompts_share} leave the "
                "language model no text; lower one of them"
            )
        return self


Source = SyntheticSource | HHSource | DatasetSource | MixtureSource | ReviewsSource


def local_paths(source: Source, key: str = "fetch") -> list[tuple[str, str]]:
    """(key in params.yaml, path) of everything that `source` reads from this machine."""
    if isinstance(source, HHSource):
        return [(f"{key}.folder", source.folder)] if source.folder is not None else []
    if isinstance(source, DatasetSource):
        return [(f"{key}.path", source.path)] if source.revision is None else []
    if isinstance(source, ReviewsSource):
        return [(f"{key}.file", source.file)]
    if isinstance(source, MixtureSource):
        members = [(f"{key}.members.{name}.fetch", member.fetch) for name, member in source.members.items()]
        return [path for name, member in members for path in local_paths(member, name)]
    return []


class FetchView(Strict):
    """What stages/fetch.py reads."""

    seed: Seed
    fetch: Annotated[Source, Field(discriminator="source")]

    @model_validator(mode="after")
    def _dvc_sees_local_data(self) -> "FetchView":
        for key, path in local_paths(self.fetch):
            if not lies_in_data(path):
                hub = "; of a dataset on the Hub set its revision, a commit" if key.endswith("path") else ""
                raise ValueError(
                    f"{key} = {path} is not below {WATCHED}/, the folder in which DVC sees changes: copy it there or "
                    f"link its files (`cp -rs /absolute/path {WATCHED}/NAME`), and set {key} to {WATCHED}/NAME{hub}"
                )
        return self
