"""Continuous batching: a row that has drawn its stop token leaves, and the next prompts take its place.

transformers' generate() goes on computing a row that has stopped until the last of its batch has, which on dialogues is
three to five times the tokens that are kept; its own continuous batching draws all rows from one random stream.

The cache is right-aligned. Its last column is every row's newest token, so rows of any length lie side by side, what
is left of a shorter one is masked, and a layer with a sliding window keeps the last columns of all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.sampling.decoding.kept_state import KeptState, State

PROMPTS_AT_ONCE = 8  # are read together: of like length, they need little padding, and attention takes its square

# Next-token logits [rows, vocabulary] and the prompt of each row, to scores whose argmax is the sampled token.
Choose = Callable[[Tensor, list[int]], Tensor]
Ends = Callable[[list[int]], bool]  # whether a completion ends with its last token


@dataclass
class _Rows:
    """Rows that are being answered.

    Attributes:
        of: index of the prompt that each answers.
        lengths: its tokens in the cache.
        newest: [rows], its last token, which is not.
    """

    of: list[int]
    lengths: list[int]
    newest: Tensor
    cache: DynamicCache

    @property
    def layers(self) -> list[Any]:
        """The cache's, each DynamicLayer or DynamicSlidingWindowLayer."""
        return self.cache.layers


@dataclass
class _Progress:
    """Where a decoding stands; prompts are named by their index."""

    waiting: list[int]  # the next to be begun first
    completions: list[list[int]]  # of all prompts
    done: list[int]  # in the order in which they were answered
    rows: _Rows | None

    @property
    def is_over(self) -> bool:
        return not (self.waiting or self.rows)

    def begin(self, batch_size: int) -> list[int]:
        """Take the prompts that are read next, together: none while there is room for fewer."""
        together = min(PROMPTS_AT_ONCE, batch_size, len(self.waiting))
        if self.rows and len(self.rows.of) + together > batch_size:
            return []
        begun, self.waiting = self.waiting[:together], self.waiting[together:]
        return begun

    def add(self, drawn: list[_Rows], is_complete: Ends) -> list[int]:
        """Add the newest token of each row; the prompts that are answered with it leave, and are returned."""
        answered, staying = [], []
        for rows in drawn:
            stays = []
            for row, (i, token) in enumerate(zip(rows.of, rows.newest.tolist(), strict=True)):
                self.completions[i].append(token)
                if is_complete(self.completions[i]):
                    answered.append(i)
                else:
                    stays.append(row)
            if stays:
                staying.append(_kept(rows, stays))
        self.done += answered
        self.rows = _joined(staying) if staying else None
        return answered


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    prompts: list[list[int]],
    choose: Choose,
    ends: Ends,
    max_new_tokens: int,
    batch_size: int,
    kept: KeptState | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """The place of each prompt and its completion, up to the token that ends it, as they are finished.

    Longer prompts are begun first. Which rows share a batch changes their logits by rounding only.

    Args:
        batch_size: rows that are continued at once.
        kept: takes the state now and then, with the noise of `choose`; decoding resumes from one that is there.

    Raises:
        UserError: the model keeps something else than keys and values of its past, or its logits are no numbers.
    """
    longest_first = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    at = _Progress(longest_first, [[] for _ in prompts], [], None)
    if kept is not None and (state := kept.load()) is not None:
        _restore(at, state, model, kept)
        yield from ((i, at.completions[i]) for i in at.done)
    while not at.is_over:
        drawn = [_next(model, at.rows, choose)] if at.rows else []
        if begun := at.begin(batch_size):
            drawn.append(_begin(model, [prompts[i] for i in begun], begun, choose))
        answered = at.add(drawn, lambda ids: ends(ids) or len(ids) == max_new_tokens)
        yield from ((i, at.completions[i]) for i in answered)
        if kept is not None and (kept.is_due(_size(at.rows)) or at.is_over):
            kept.save(partial(_state, at, kept))


def _begin(model: PreTrainedModel, prompts: list[list[int]], of: list[int], choose: Choose) -> _Rows:
    """Read the prompts, padded on the left, and draw the first token of each answer."""
    longest = max(map(len, prompts))
    lengths = [len(prompt) for prompt in prompts]
    tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    cache = DynamicCache(config=model.config)
    for layer in cache.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise UserError(
                f"{type(model).__name__} keeps a {type(layer).__name__} of its past, from which this project cannot "
                "sample; choose a model with attention alone in params.yaml: base."
            )
    mask = _mask(lengths, longest, model.device)
    logits = _logits(model, tokens, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
    return _Rows(of, lengths, _highest(choose(logits, of)), cache)


def _next(model: PreTrainedModel, rows: _Rows, choose: Choose) -> _Rows:
    """Draw the next token of each row."""
    positions = torch.tensor(rows.lengths, device=model.device)[:, None]
    rows.lengths = [length + 1 for length in rows.lengths]
    mask = _mask(rows.lengths, max(rows.lengths), model.device)
    logits = _logits(model, rows.newest[:, None], mask, positions, rows.cache)
    rows.newest = _highest(choose(logits, rows.of))
    return rows


def _highest(scores: Tensor) -> Tensor:
    """The token of each row. A NaN, which argmax takes for the highest, would be token 0 up to the answer's end."""
    found = scores.argmax(1)
    if not scores.gather(1, found[:, None]).isfinite().all():
        raise UserError(
            "the policy's logits are no finite numbers: its training diverged, or half precision overflows; lower its "
            "learning rate, or set base.dtype to float32 in params.yaml."
        )
    return found


def _logits(model: PreTrainedModel, tokens: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
    """Next-token logits, [rows, vocabulary]; the cache grows by `tokens`."""
    calling: Any = model
    output = calling(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = output.logits[:, -1]
    return logits


def _mask(lengths: list[int], columns: int, device: torch.device) -> Tensor:
    """1 where a row has a token, [rows, columns], right-aligned."""
    first = columns - torch.tensor(lengths, device=device)[:, None]
    return (torch.arange(columns, device=device) >= first).long()


def _kept(rows: _Rows, stays: list[int]) -> _Rows:
    """These rows, in as many columns as their longest needs."""
    if len(stays) == len(rows.of):
        return rows
    index = torch.tensor(stays, device=rows.newest.device)
    rows.cache.batch_select_indices(index)
    lengths = [rows.lengths[row] for row in stays]
    _fit(rows, max(lengths))
    return _Rows([rows.of[row] for row in stays], lengths, rows.newest[index], rows.cache)


def _joined(parts: list[_Rows]) -> _Rows:
    """All rows in one cache."""
    first, *others = parts
    for other in others:
        columns = max(*first.lengths, *other.lengths)
        for rows in (first, other):
            _fit(rows, columns)
        for mine, theirs in zip(first.layers, other.layers, strict=True):
            mine.keys, mine.values = torch.cat([mine.keys, theirs.keys]), torch.cat([mine.values, theirs.values])
        newest = torch.cat([first.newest, other.newest])
        first = _Rows([*first.of, *other.of], [*first.lengths, *other.lengths], newest, first.cache)
    return first


def _fit(rows: _Rows, columns: int) -> None:
    """Cut or pad the cache on the left, so that it holds `columns` tokens; a sliding layer holds its window but one."""
    for layer in rows.layers:
        sliding = isinstance(layer, DynamicSlidingWindowLayer)
        width = min(columns, layer.sliding_window - 1) if sliding else columns
        missing = width - layer.keys.shape[-2]  # negative: too many; F.pad then cuts
        layer.keys, layer.values = (pad(x, (0, 0, missing, 0)) for x in (layer.keys, layer.values))
        if sliding:
            layer.cumulative_length = columns


def _size(rows: _Rows | None) -> int:
    """Bytes of the cache."""
    return 0 if rows is None else sum(layer.keys.nbytes + layer.values.nbytes for layer in rows.layers)


def _state(at: _Progress, kept: KeptState) -> State:
    """Whose completions are done, all tokens drawn, and of the rows under way everything."""
    found = {
        "done": torch.tensor(at.done, dtype=torch.long),
        "drawn": torch.tensor([token for one in at.completions for token in one], dtype=torch.long),
        "drawn_of": torch.tensor([len(one) for one in at.completions], dtype=torch.long),
    }
    if (rows := at.rows) is None:
        return found
    found |= {"of": torch.tensor(rows.of), "lengths": torch.tensor(rows.lengths), "newest": rows.newest}
    found["noise"] = kept.noise.state(rows.of)
    for number, layer in enumerate(rows.layers):
        found |= {f"keys.{number}": layer.keys, f"values.{number}": layer.values}
    return found


def _restore(at: _Progress, state: State, model: PreTrainedModel, kept: KeptState) -> None:
    """Let `at`, of which nothing is begun, be what `_state` was given."""
    at.done = state["done"].tolist()
    at.completions = [one.tolist() for one in state["drawn"].split(state["drawn_of"].tolist())]
    at.waiting = at.waiting[sum(map(bool, at.completions)) :]
    if "of" not in state:
        return
    of, lengths = state["of"].tolist(), state["lengths"].tolist()
    kept.noise.restore(of, state["noise"], [at.completions[i] for i in of])
    at.rows = _Rows(of, lengths, state["newest"].to(model.device), DynamicCache(config=model.config))
    for number, layer in enumerate(at.rows.layers):
        keys, values = (state[f"{name}.{number}"].to(model.device) for name in ("keys", "values"))
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = max(lengths)
