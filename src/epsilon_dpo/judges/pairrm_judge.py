"""PairRM as a judge: upstream's scores, with its two traps taken out.

An answer's token budget follows its own source and not the longest source of its batch, which makes upstream's scores
depend on the batch's composition (`budget: batch` has it that way), and marker strings inside a text become spaces,
on which upstream crashes. Everything else is LLM-Blender's: `compare` without a mode is its default, the *sum*
f(a, b) - f(b, a) over both orders that its documentation calls an average, and `rank` its rank scores. A tie is a tie
here (scoring.py), where upstream's `logit > 0` makes it a win of b.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from epsilon_dpo.device import on_device
from epsilon_dpo.judges.interface import Messages, Question, Verdict, rank_by_comparison
from epsilon_dpo.judges.layout import EncodedPair, Layout, Pair
from epsilon_dpo.judges.pairrm import PairRM
from epsilon_dpo.judges.pairrm_folder import load_model, load_tokenizer
from epsilon_dpo.judges.source_text import pair_text


class PairRMJudge:
    """A PairRM folder, ready to compare.

    Attributes:
        batch_size: pairs at once.
        budget: whose source sets how many tokens an answer may have: its own (`example`), or the longest of the
            `batch`, as upstream has it; then batches are taken in the order given, and what stands beside an over-long
            answer changes its score.
    """

    def __init__(
        self, model: PairRM, layout: Layout, batch_size: int, budget: Literal["example", "batch"] = "example"
    ) -> None:
        self.model = model.eval()
        self.layout = layout
        self.batch_size = batch_size
        self.budget = budget

    @classmethod
    def load(cls, settings: dict[str, Any], folder: Path) -> "PairRMJudge":
        """The judge in `folder` (config.json, model.safetensors, tokenizer.json) under judge.json's lengths and budget.

        Raises:
            UserError: the folder's files are no PairRM.
        """
        tokenizer = load_tokenizer(folder)
        layout = Layout(tokenizer, settings["source_max_length"], settings["candidate_max_length"])
        model = on_device(load_model(folder, layout.marker_ids))
        return cls(model, layout, settings["batch_size"], settings["budget"])

    def compare(self, questions: list[Question]) -> list[Verdict]:
        """A verdict per question, in the order given; see `compare_texts`, and source_text.py for what is read."""
        return self.compare_texts([pair_text(*question) for question in questions])

    def rank(self, prompts: list[Messages], candidates: list[list[str]]) -> list[list[float]]:
        """Upstream's rank scores: n (n - 1) forwards a prompt."""
        return rank_by_comparison(self, prompts, candidates)

    def usage(self) -> dict[str, float]:
        return {}

    @torch.inference_mode()
    def compare_texts(self, pairs: list[Pair]) -> list[Verdict]:
        """A verdict per pair of texts, in the order given.

        Both orders of a pair have the same length and stand in the same place of the same batch, so swapping a and b
        flips the logit's sign to the last bit and two identical answers tie exactly; the other pairs of the batch
        change a logit by padding's rounding only (about 1e-6), unless the budget is the batch's.
        """
        encoded = self._encode(pairs)
        order = list(range(len(pairs)))
        if self.budget == "example":
            order.sort(key=lambda i: (len(encoded[i].ab), i))
        scores: dict[int, tuple[float, float]] = {}
        with tqdm(total=len(pairs), desc="judge", unit="pair") as bar:
            for start in range(0, len(pairs), self.batch_size):
                rows = order[start : start + self.batch_size]
                f_ab = self._f([encoded[i].ab for i in rows])
                f_ba = self._f([encoded[i].ba for i in rows])
                scores.update(zip(rows, zip(f_ab, f_ba, strict=True), strict=True))
                bar.update(len(rows))
        return [
            Verdict(*scores[i], e.len_a, e.len_b, e.trunc_source, e.trunc_a, e.trunc_b) for i, e in enumerate(encoded)
        ]

    def _encode(self, pairs: list[Pair]) -> list[EncodedPair]:
        bar = tqdm(pairs, desc="tokenise pairs", unit="pair")
        if self.budget == "example":
            return [self.layout.encode(pair) for pair in bar]
        lengths = [self.layout.source_length(pair.source) for pair in pairs]
        starts = [i - i % self.batch_size for i in range(len(pairs))]
        longest = [max(lengths[start : start + self.batch_size]) for start in starts]
        return [self.layout.encode(pair, length) for pair, length in zip(bar, longest, strict=True)]

    def _f(self, rows: list[list[int]]) -> list[float]:
        place = next(self.model.parameters()).device
        batch = {name: tensor.to(place) for name, tensor in self.layout.pad(rows).items()}
        return self.model(**batch).float().tolist()
