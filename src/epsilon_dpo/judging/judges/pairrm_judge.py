"""PairRM as a judge: upstream's scores, with its two traps taken out.

An answer's token budget follows its own source and not the longest source of its batch, which makes upstream's scores
depend on the batch's composition (`budget: batch` has it that way), and marker strings inside a text become spaces,
on which upstream crashes. Everything else is LLM-Blender's: `compare` without a mode is its default, the *sum*
f(a, b) - f(b, a) over both orders that its documentation calls an average, and `rank` its rank scores. A tie is a tie
here (scoring.py), where upstream's `logit > 0` makes it a win of b.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.mkldnn import to_mkldnn
from tqdm import tqdm

from epsilon_dpo.judging.judges import pairrm_forward
from epsilon_dpo.judging.judges.interface import Messages, Question, Verdict, rank_by_comparison, require_finite
from epsilon_dpo.judging.judges.layout import Layout, Pair
from epsilon_dpo.judging.judges.pairrm import PairRM
from epsilon_dpo.judging.judges.pairrm_folder import load_model, load_tokenizer
from epsilon_dpo.judging.judges.source_text import pair_text
from epsilon_dpo.pipeline.stage.journal import Journal
from epsilon_dpo.pipeline.stage.runtime import on_device

TokenIds = tuple[int, ...]
ONEDNN_FROM = 256  # hidden size; in narrower layers its calls cost more than they save
CPU_TOKENS = 1024  # at once: more does not make a CPU's matrix products faster, and its caches miss


class PairRMJudge:
    """A PairRM folder, ready to compare.

    Attributes:
        batch_size: pairs at once, at most; on a CPU fewer where they are long.
        budget: the source that sets how many tokens an answer may have: its own (`example`), or the longest of the
            `batch`, as upstream does; those are `batch_size` neighbours in the order given, and the neighbours of
            an over-long answer change its score.
        journal: takes the batches that are judged.
    """

    def __init__(
        self,
        model: PairRM,
        layout: Layout,
        batch_size: int,
        budget: Literal["example", "batch"] = "example",
        journal: Journal | None = None,
    ) -> None:
        self.model = model.eval()
        ours = pairrm_forward.has_its_attention(model.pretrained_model.config)
        self._forward = partial(pairrm_forward.forward, model) if ours else model
        self._place = next(model.parameters()).device
        self.layout = layout
        self.batch_size = batch_size
        self.budget = budget
        self.journal = journal or Journal()

    @classmethod
    def load(cls, settings: dict[str, Any], folder: Path, journal: Journal | None = None) -> "PairRMJudge":
        """The judge in `folder` (config.json, model.safetensors, tokenizer.json) under judge.json's lengths and budget.

        Raises:
            UserError: the folder's files are no PairRM.
        """
        tokenizer = load_tokenizer(folder)
        layout = Layout(tokenizer, settings["source_max_length"], settings["candidate_max_length"])
        model = on_device(load_model(folder, layout.marker_ids))
        return cls(with_fast_layers(model), layout, settings["batch_size"], settings["budget"], journal)

    def compare(self, questions: list[Question]) -> list[Verdict]:
        """A verdict per question, in the order given; see `compare_texts`, and source_text.py for what is read.

        The lengths are those of the two answers alone, without the earlier turns that a dialogue's candidates share.
        """
        verdicts = self.compare_texts([pair_text(*question) for question in questions])
        length = self.layout.lengths([text.strip() for question in questions for text in (question.a, question.b)])
        return [
            replace(verdict, len_a=length[question.a.strip()], len_b=length[question.b.strip()])
            for question, verdict in zip(questions, verdicts, strict=True)
        ]

    def rank(self, prompts: list[Messages], candidates: list[list[str]]) -> list[list[float]]:
        """Upstream's rank scores: n (n - 1) forwards a prompt."""
        return rank_by_comparison(self, prompts, candidates)

    def usage(self) -> dict[str, float]:
        return {}

    @torch.inference_mode()
    def compare_texts(self, pairs: list[Pair]) -> list[Verdict]:
        """A verdict per pair of texts, in the order given.

        Each distinct text is tokenised once and each distinct pair judged once, both orders side by side in one batch
        of pairs of like length. Which of the two answers is called a changes no batch, so swapping a and b flips the
        logit's sign to the last bit, and two identical answers are one row and tie exactly. The other pairs change a
        logit by rounding only (about 1e-6), unless the budget is the batch's.
        """
        encoded = self.layout.encode_all(pairs, 1 if self.budget == "example" else self.batch_size)
        orders = {tuple(sorted({tuple(e.ab), tuple(e.ba)})) for e in encoded}  # of two identical answers one
        both = sorted(orders, key=lambda rows: (len(rows[0]), rows))
        scores: dict[TokenIds, float] = {}
        with tqdm(total=len(both), desc="judge", unit="pair") as bar:
            for batch in self._batches(both):
                rows = [row for pair in batch for row in pair]
                scores.update(zip(rows, self.journal.of(["judge", rows], partial(self._f, rows)), strict=True))
                bar.update(len(batch))
        return [
            Verdict(scores[tuple(e.ab)], scores[tuple(e.ba)], e.len_a, e.len_b, e.trunc_source, e.trunc_a, e.trunc_b)
            for e in encoded
        ]

    def _batches(self, pairs: list[tuple[TokenIds, ...]]) -> Iterator[list[tuple[TokenIds, ...]]]:
        """Neighbours of `pairs`, which come from the shortest to the longest."""
        batch: list[tuple[TokenIds, ...]] = []
        for pair in pairs:
            full = len(batch) == self.batch_size
            if full or (batch and self._place.type == "cpu" and 2 * (len(batch) + 1) * len(pair[0]) > CPU_TOKENS):
                yield batch
                batch = []
            batch.append(pair)
        if batch:
            yield batch

    def _f(self, rows: list[TokenIds]) -> list[float]:
        batch = {name: tensor.to(self._place) for name, tensor in self.layout.pad(rows).items()}
        return require_finite(self._forward(**batch).float().tolist())


def with_fast_layers(model: PairRM) -> PairRM:
    """`model`, whose layers multiply by oneDNN from now on if it is on a CPU: MKL takes twice the time on AMD's.

    Such a model can only be run: it has no gradients, and its weights are not for saving.
    """
    on_cpu = next(model.parameters()).device.type == "cpu" and torch.backends.mkldnn.is_available()
    return to_mkldnn(model) if on_cpu and model.pretrained_model.config.hidden_size >= ONEDNN_FROM else model
