"""PairRM's token layout: `[CLS]<|source|>s[SEP] [CLS]<|candidate1|>a[SEP] [CLS]<|candidate2|>b[SEP] [PAD]*`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from epsilon_dpo.pipeline.observability.errors import UserError

SOURCE, CANDIDATE1, CANDIDATE2, CANDIDATE = "<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"
MARKERS = (SOURCE, CANDIDATE1, CANDIDATE2, CANDIDATE)


class Pair(NamedTuple):
    """Two answers to one source text."""

    source: str
    a: str
    b: str


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of both orders, and what truncation took; lengths are the two texts' own tokens, before it."""

    ab: list[int]
    ba: list[int]
    len_a: int
    len_b: int
    trunc_source: bool
    trunc_a: bool
    trunc_b: bool


class Layout:
    """Encodes pairs within a budget of `source_max_length + 2 * candidate_max_length` tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, source_max_length: int, candidate_max_length: int) -> None:
        self.tokenizer = tokenizer
        self.source_max_length = source_max_length
        self.candidate_max_length = candidate_max_length
        ids = [self._id(marker) for marker in MARKERS]
        self.marker_ids = (ids[0], ids[1], ids[2])
        self._all_marker_ids = frozenset(ids)

    def encode(self, pair: Pair) -> EncodedPair:
        return self.encode_all([pair])[0]

    def encode_all(self, pairs: list[Pair], together: int = 1) -> list[EncodedPair]:
        """Source first; what it leaves of its budget is shared by the two answers. Each distinct text is read once.

        Args:
            pairs: the texts.
            together: so many neighbours have the answers' budget that the longest of their sources leaves (upstream's
                batches); 1: each its own.
        """
        source_id, first, second = self.marker_ids
        sources = self._bodies([pair.source for pair in pairs], SOURCE)
        answers = self._bodies([text for pair in pairs for text in (pair.a, pair.b)], CANDIDATE1)
        blocks = [self._block(source_id, sources[pair.source], self.source_max_length) for pair in pairs]
        encoded = []
        for i, (pair, source) in enumerate(zip(pairs, blocks, strict=True)):
            start = i - i % together
            taken = max(map(len, blocks[start : start + together]))
            budget = self.candidate_max_length + (self.source_max_length - taken) // 2
            a, b = answers[pair.a], answers[pair.b]
            row = EncodedPair(
                ab=source + self._block(first, a, budget) + self._block(second, b, budget),
                ba=source + self._block(first, b, budget) + self._block(second, a, budget),
                len_a=len(a),
                len_b=len(b),
                trunc_source=len(sources[pair.source]) + 3 > self.source_max_length,
                trunc_a=len(a) + 3 > budget,
                trunc_b=len(b) + 3 > budget,
            )
            encoded.append(row)
        return encoded

    def lengths(self, answers: list[str]) -> dict[str, int]:
        """The tokens of each answer, as of EncodedPair."""
        return {text: len(body) for text, body in self._bodies(answers, CANDIDATE1).items()}

    def pad(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask, [rows, longest row], padded on the right."""
        ids = [torch.tensor(row) for row in rows]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        }

    def _id(self, marker: str) -> int:
        id_ = self.tokenizer.convert_tokens_to_ids(marker)
        if not isinstance(id_, int) or id_ == self.tokenizer.unk_token_id:
            raise UserError(
                f"The judge's tokenizer has no token {marker}: it is not PairRM's; use llm-blender/PairRM-hf."
            )
        return id_

    def _bodies(self, texts: list[str], marker: str) -> dict[str, list[int]]:
        """The ids of each text behind `marker`, without [CLS], the marker and [SEP].

        Marker strings in a text become spaces. One that only the tokenizer's normaliser makes (full-width letters, say)
        becomes [UNK]: the model looks for the first marker of a row. Where the normaliser composes a text's beginning
        with the marker's end (U+0338 strikes the > through), a space stands between.
        """
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return {}
        rows = self.tokenizer([marker + self._without_markers(text) for text in distinct])["input_ids"]
        for i, text in enumerate(distinct):
            if rows[i][1] not in self._all_marker_ids:
                rows[i] = self.tokenizer(f"{marker} {self._without_markers(text)}")["input_ids"]
        unknown = self.tokenizer.unk_token_id
        return {
            text: [unknown if id_ in self._all_marker_ids else id_ for id_ in row[2:-1]]
            for text, row in zip(distinct, rows, strict=True)
        }

    def _without_markers(self, text: str) -> str:
        for special in (self.tokenizer.sep_token, *MARKERS):
            text = text.replace(special, " ")
        return text

    def _block(self, marker_id: int, body: list[int], max_length: int) -> list[int]:
        """[CLS] marker body [SEP], cut on the right of the body; the three special tokens count."""
        return [self.tokenizer.cls_token_id, marker_id, *body[: max_length - 3], self.tokenizer.sep_token_id]
