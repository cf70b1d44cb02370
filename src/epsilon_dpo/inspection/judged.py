"""What a small PairRM reads of a dataset, if stage judge trains one on it: lengths in the tokens of its own."""

from typing import NamedTuple

from epsilon_dpo.judging.judges.layout import Layout
from epsilon_dpo.judging.judges.source_text import pair_text
from epsilon_dpo.judging.making.params import TrainedJudge
from epsilon_dpo.judging.making.small_pairrm import small_tokenizer
from epsilon_dpo.pipeline.stage.files import Row

SPECIAL = 3  # [CLS], a marker and [SEP] count in the limits of params.yaml
UNCUT = 10**9


class Judged(NamedTuple):
    """What such a judge reads.

    Attributes:
        sources, candidates: lengths of the prompt of each pair, and of each answer, as `judge.source_max_length` and
            `judge.candidate_max_length` count them.
        sources_cut, candidates_cut: the shares that the judge's limits cut; a short prompt leaves answers its room.
    """

    sources: list[int]
    candidates: list[int]
    sources_cut: float
    candidates_cut: float


def judged(pairs: list[Row], judge: TrainedJudge) -> Judged:
    """`pairs` with explicit prompt, at least one, by a tokenizer that is trained on them."""
    texts = [pair_text(row["prompt"], *(row[side][0]["content"] for side in ("chosen", "rejected"))) for row in pairs]
    tokenizer = small_tokenizer((text for pair in texts for text in pair), judge.vocab_size)
    rows = Layout(tokenizer, UNCUT, UNCUT).encode_all(texts)
    sources = [len(row.ab) - row.len_a - row.len_b - 2 * SPECIAL for row in rows]
    candidates = [length + SPECIAL for row in rows for length in (row.len_a, row.len_b)]
    read = Layout(tokenizer, judge.source_max_length, judge.candidate_max_length).encode_all(texts)
    sources_cut = sum(row.trunc_source for row in read) / len(read)
    candidates_cut = sum(row.trunc_a + row.trunc_b for row in read) / (2 * len(read))
    return Judged(sources, candidates, sources_cut, candidates_cut)
