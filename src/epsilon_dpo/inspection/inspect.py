"""`epsilon-dpo inspect DATA` in one call: everything is read once, a sample is tokenised, nothing is kept."""

import argparse
import math
import tempfile
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from epsilon_dpo.check.params_file import ParamsFile, load_file
from epsilon_dpo.data.contract.profile import LENGTHS
from epsilon_dpo.data.facts.rows import prompt_key
from epsilon_dpo.data.shapes.recognition import Reading, recognise
from epsilon_dpo.data.sources.dataset import Dataset, RowsOnDisk
from epsilon_dpo.data.sources.formats import rows_of
from epsilon_dpo.data.sources.params import DatasetSource
from epsilon_dpo.data.sources.places import Place, locate, split_names
from epsilon_dpo.data.sources.published import FIRST_ROWS, read_any
from epsilon_dpo.inspection.blocks import as_yaml, blocks, eval_share, fitting_tokens
from epsilon_dpo.inspection.judged import Judged, judged
from epsilon_dpo.inspection.measured import Measured, measure
from epsilon_dpo.inspection.seen import READ, TRAINED, as_the_model_sees
from epsilon_dpo.judging.making.params import TrainedJudge
from epsilon_dpo.models.base.embedded import texts_of, train_tokenizer
from epsilon_dpo.models.base.params import EmbeddedModel
from epsilon_dpo.models.base.pretrained import load_tokenizer_alone
from epsilon_dpo.pipeline.observability.errors import NotServed, UserError
from epsilon_dpo.pipeline.stage.files import Row

ACTIONS = {"drop": "dropped", "stop": "the pipeline stops", "report": "reported"}
TRAINING = ("train", "train_prefs")  # names of splits, in order of preference
HELD_OUT = ("test", "test_prefs", "eval", "validation", "valid", "dev")


def inspected(asked: argparse.Namespace) -> str:
    """The text to print; `asked` as cli.py parses it.

    Raises:
        UserError: params.yaml, the data or the base's tokenizer cannot be read, each in its own sentence.
    """
    params = load_file(asked.params)
    with tempfile.TemporaryDirectory() as scratch:
        source = _source(asked)
        place = locate(source, Path(scratch) / "place")
        sources = _with_splits(source, place, asked.split)
        reading, unread = _reading(place, sources[0])
        source, dataset, left_out = _first_that_fetch_reads(sources, params.seed, Path(scratch) / "rows")
        if not dataset.train and (source.eval_split or not dataset.eval):
            raise UserError(_no_pair(dataset, source.train_split, place.shown))
        parts = [
            "\n".join([_described(place, reading, unread, dataset), *left_out]),
            *_sample(dataset, params, asked.rows, _read_by(source, dataset)),
        ]
    return "\n\n".join(parts)


def _source(asked: argparse.Namespace) -> DatasetSource:
    columns = dict(pair.partition("=")[::2] for pair in asked.columns)
    if missing := [ours for ours, theirs in columns.items() if not theirs]:
        raise UserError(f"--columns {missing[0]} names no column; write it as {missing[0]}=<the file's column>.")
    try:
        return DatasetSource(
            source="dataset",
            path=asked.data,
            revision=asked.revision,
            name=asked.name,
            train_split=asked.split or "train",
            eval_split=None,
            eval_share=0.5,
            columns=columns or None,
            pairs=asked.pairs,
            min_margin=None,
            max_train_pairs=None,
            max_eval_pairs=None,
        )
    except ValidationError as error:
        problem = error.errors()[0]
        key = "--" + str(problem["loc"][0]) if problem["loc"] else "the command"
        raise UserError(f"{key}: {problem['msg'].removeprefix('Value error, ')}.") from None


def _with_splits(source: DatasetSource, place: Place, wanted: str | None) -> list[DatasetSource]:
    """`source` with the split to train on, and with each to evaluate on that the data has; the last with none."""
    train = wanted or next((name for name in TRAINING if name in place.splits), None)
    if train is None:
        if len(place.splits) > 1:
            raise UserError(
                f"{place.shown} has the splits {', '.join(sorted(place.splits))}; say with --split which to train on."
            )
        train = next(iter(place.splits))
    held_out = [name for name in HELD_OUT if name in place.splits and name not in split_names(train)]
    alone = source.model_copy(update={"train_split": train, "eval_split": None, "eval_share": 0.5})
    return [*(alone.model_copy(update={"eval_split": name, "eval_share": None}) for name in held_out), alone]


def _first_that_fetch_reads(
    sources: list[DatasetSource], seed: int, scratch: Path
) -> tuple[DatasetSource, Dataset, list[str]]:
    """The first of `sources` whose split to evaluate on stage fetch would not stop at, its pairs, and a line for each
    split before it: many a published `test` has no answers, or none that are labelled.

    Each of these is read alone first: the split to train on may be large, and is most often read once only.

    Raises:
        UserError: the split to train on cannot be read; NotServed: some split cannot be downloaded at this moment.
    """
    left_out: list[str] = []
    for source in sources[:-1]:
        assert source.eval_split is not None
        try:
            alone = read_any(sources[-1].model_copy(update={"train_split": source.eval_split}), seed, scratch)
            if alone.train or alone.eval:
                return source, read_any(source, seed, scratch), left_out
            why = _no_pair(alone, source.eval_split, source.path)
        except NotServed:
            raise
        except UserError as error:
            why = str(error)
        left_out.append(f"  left out {source.eval_split}, at which stage fetch would stop: {why}")
    return sources[-1], read_any(sources[-1], seed, scratch), left_out


def _no_pair(dataset: Dataset, split: str, shown: str) -> str:
    """A sentence for a split of which every row was dropped, if it has any."""
    of_split = (entry for entry in dataset.dropped or [] if entry["split"] == split)
    first = next(of_split, {"id": "none", "detail": "there is none"})
    return f"No row of the split {split} of {shown} makes a pair; the first, {first['id']}: {first['detail']}."


def _reading(place: Place, source: DatasetSource) -> tuple[Reading, list[str]]:
    """The shape of the first file of the training split, and the columns that it does not read."""
    part = next(iter(place.parts(source.train_split, "--split")), None)
    if part is None:
        raise UserError(f"The split {source.train_split} of {place.shown} holds no row (--split).")
    file, first, last = part
    end = first + FIRST_ROWS if last is None else min(last, first + FIRST_ROWS)
    head = [row for _, row in islice(rows_of(file), first, end)]
    reading = recognise(head, file.shown, source.columns)
    there = dict.fromkeys(name for row in head for name in row)
    return reading, [name for name in there if name not in reading.names.values()]


def _described(place: Place, reading: Reading, unread: list[str], dataset: Dataset) -> str:
    facts = dataset.facts
    columns = ", ".join(ours if ours == theirs else f"{ours} = {theirs}" for ours, theirs in reading.names.items())
    splits = ", ".join(f"{name} ({len(files)} file{'s' * (len(files) > 1)})" for name, files in place.splits.items())
    pairs = len(dataset.train) + len(dataset.eval)
    lines = [
        f"{place.shown}: {facts['rows_read']:,} rows read, {pairs:,} pairs",
        f"  shape    {reading.shape.name}: {reading.shape.description}",
        f"  columns  {columns}" + (f"; not read: {', '.join(unread)}" if unread else ""),
        f"  splits   {splits}; read: {' and '.join(facts['splits'])}",
    ]
    for reason, count in facts["dropped"].items():
        first = next(entry for entry in dataset.dropped or [] if entry["reason"] == reason)
        lines.append(f"  dropped  {count:,} {reason}; the first, {first['id']}: {first['detail']}")
    return "\n".join(lines)


def _some(rows: Collection[Row], wanted: int) -> Collection[Row]:
    assert isinstance(rows, RowsOnDisk)  # read_any gives no other
    return RowsOnDisk(rows.path, rows.there, wanted, "inspect")


def _read_by(source: DatasetSource, dataset: Dataset) -> tuple[dict[str, Any], tuple[int, int]]:
    """The block `fetch`, and how many training and evaluation pairs it gives, about."""
    train, held_out = len(dataset.train), len(dataset.eval)
    block = source.model_dump()
    if source.eval_split is None:
        pairs = train + held_out
        block["eval_share"] = eval_share(pairs)
        held_out = round(block["eval_share"] * pairs)
        train = pairs - held_out
    return block, (train, held_out)


def _sample(
    dataset: Dataset, params: ParamsFile, rows: int, read_by: tuple[dict[str, Any], tuple[int, int]]
) -> Iterator[str]:
    """What the model will see of a sample, the contract's verdict on it, its lengths, and the blocks."""
    total = len(dataset.train) + len(dataset.eval)
    share = min(rows / total, 1.0)
    sample = [row for part in (dataset.train, dataset.eval) for row in _some(part, math.ceil(share * len(part)))]
    tokenizer, whose = _tokenizer(params, sample)
    found = measure(sample, tokenizer, params.tokens, params.contract)
    fetch, pairs = read_by
    if found.pairs:
        shown = [as_the_model_sees(pair, tokenizer, params.tokens) for pair in _shortest_median_longest(found)]
        marks = f"{TRAINED} is trained and scored, {READ} is only read"
        heading = f"What the model sees ({whose}), shortest, median and longest prompt; {marks}"
        yield "\n".join([heading, *shown])
    yield _verdict(found, len(sample), params) + _shared_prompts(dataset, params)
    if found.lengths:
        yield _lengths(found, params)
    read_by_judge = None
    if found.pairs and isinstance(params.judge, TrainedJudge):
        read_by_judge = judged(found.pairs, params.judge)
        yield _read_by_judge(read_by_judge, params.judge)
    tokens = fitting_tokens(found.lengths, params.tokens, params.contract.max_truncated_share)
    answers = [row["chosen_tokens"] for row in found.lengths]
    change = blocks(fetch, params, tokens, pairs, answers, read_by_judge)
    where = ", ".join(change)
    yield f"Paste into params.yaml, in place of its {where}:\n\n{as_yaml(change)}".rstrip()


def _tokenizer(params: ParamsFile, sample: list[Row]) -> tuple[PreTrainedTokenizerBase, str]:
    if isinstance(params.base, EmbeddedModel):
        return train_tokenizer(texts_of(sample), params.base), "base: embedded, its tokenizer trained on this sample"
    return load_tokenizer_alone(params.base), f"base: {params.base.path}"


def _shared_prompts(dataset: Dataset, params: ParamsFile) -> str:
    """The one expectation that only both splits together can fail."""
    held_out = {prompt_key(row["chosen"]) for row in dataset.eval}
    shared = sum(prompt_key(row["chosen"]) in held_out for row in dataset.train)
    action = ACTIONS[params.contract.on_failure.splits_share_no_prompt]
    return f"\n  splits_share_no_prompt: {shared:,} training rows fail it, {action}" if shared else ""


def _shortest_median_longest(found: Measured) -> list[Row]:
    """Pairs by the length of their prompts; at most three."""
    order = sorted(range(len(found.pairs)), key=lambda i: (found.lengths[i]["prompt_tokens"], i))
    return [found.pairs[order[place]] for place in sorted({0, len(order) // 2, len(order) - 1})]


def _verdict(found: Measured, rows: int, params: ParamsFile) -> str:
    lines = [f"The contract of `validate` on {rows:,} rows"]
    actions = params.contract.on_failure.model_dump()
    for broken in found.broken:
        action = ACTIONS[actions[broken["expectation"]]]
        lines.append(
            f"  {broken['expectation']}: {broken['rows']:,} rows fail it, {action}; the first is "
            f"{broken['first']} ({broken['reason']})"
        )
    return "\n".join(lines if len(lines) > 1 else [*lines, "  every row meets every expectation about a row"])


def _lengths(found: Measured, params: ParamsFile) -> str:
    tokens = params.tokens
    lines = ["Lengths in tokens         p50     p90     p99     max"]
    for name in LENGTHS:
        points = np.percentile([row[name] for row in found.lengths], [50, 90, 99, 100], method="higher")
        lines.append(f"  {name.removesuffix('_tokens'):<18}" + "".join(f"{value:>8,}" for value in points))
    too_long = sum(row["prompt_tokens"] > tokens.max_prompt_length for row in found.lengths)
    cut = sum(row["cut_answers"] for row in found.kept)
    longer = sum(row["chosen_tokens"] > params.sample.max_new_tokens for row in found.kept)
    lines.append(
        f"  max_prompt_length: {tokens.max_prompt_length}, max_length: {tokens.max_length}: "
        f"{_share(too_long, len(found.lengths))} of the prompts do not fit, "
        f"{_share(cut, 2 * len(found.kept))} of the kept answers are cut"
    )
    lines.append(
        f"  sample.max_new_tokens: {params.sample.max_new_tokens}: "
        f"{_share(longer, len(found.kept))} of the kept chosen answers are longer than a policy's may be"
    )
    return "\n".join(lines)


def _share(some: int, of: int) -> str:
    return f"{some / of:.1%}" if of else "none"  # of nothing there is no share


def _read_by_judge(found: Judged, judge: TrainedJudge) -> str:
    prompts, answers = f"{found.sources_cut:.1%}", f"{found.candidates_cut:.1%}"
    limits = f"judge.source_max_length: {judge.source_max_length}, candidate_max_length: {judge.candidate_max_length}"
    return (
        f"The judge, trained on these pairs, cuts {prompts} of the prompts and {answers} of the answers\n"
        f"  ({limits}, in tokens of its own)"
    )
