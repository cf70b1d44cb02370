"""PairRM (Jiang et al., LLM-Blender, 2023): a cross-encoder that says by how much answer a is better than answer b.

The architecture, the token layout and the state-dict keys are those of llm-blender/PairRM-hf, so that its weights load
here; the llm-blender package itself cannot be imported beside transformers 5. Two deliberate differences from it: an
answer's token budget follows its own source and not the longest source of its batch (upstream's scores depend on the
batch's composition), and marker strings inside a text become spaces (upstream crashes on them).
"""

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm
from transformers import DebertaV2Config, DebertaV2Model, PreTrainedTokenizerFast

from epsilon_dpo.device import on_device
from epsilon_dpo.errors import UserError
from epsilon_dpo.judges.interface import Messages, Question, Verdict, rank_by_comparison
from epsilon_dpo.judges.layout import EncodedPair, Layout, Pair
from epsilon_dpo.judges.source_text import pair_text
from epsilon_dpo.outputs import read_json

NOT_ARCHITECTURE = ("architectures", "torch_dtype", "dtype", "transformers_version")


class PairRM(nn.Module):
    """DeBERTa-v3 with a head on its three markers: f(a, b) = head([s; a]) - head([s; b])."""

    def __init__(self, config: DebertaV2Config, marker_ids: tuple[int, int, int]) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.marker_ids = marker_ids  # source, first candidate, second candidate
        self.pretrained_model = DebertaV2Model(config)
        self.head_layer = nn.Sequential(
            nn.Dropout(config.drop_out),
            nn.Linear(2 * hidden, hidden),
            nn.Tanh(),
            nn.Dropout(config.drop_out),
            nn.Linear(hidden, config.n_tasks),
        )

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """f of each row; positive: the first candidate is better, P(first is better) = sigmoid(f).

        Args:
            input_ids, attention_mask: [pairs, tokens], padded on the right; each marker once a row.

        Returns:
            [pairs]
        """
        hidden = self.pretrained_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        row = torch.arange(len(hidden), device=hidden.device)
        source, first, second = (hidden[row, (input_ids == id_).int().argmax(1)] for id_ in self.marker_ids)
        left = self.head_layer(torch.cat([source, first], dim=-1))
        right = self.head_layer(torch.cat([source, second], dim=-1))
        return (left - right).mean(dim=-1)


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
    def load(cls, folder: Path) -> "PairRMJudge":
        """The judge in `folder`: config.json, model.safetensors, tokenizer.json and judge.json (lengths, batch size).

        Raises:
            UserError: the folder's files are no PairRM.
        """
        settings = read_json(folder / "judge.json")
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


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer.json of `folder` as it is: AutoTokenizer would rebuild it with another normaliser."""
    if not (folder / "tokenizer.json").is_file():
        raise UserError(
            f"{folder} has no tokenizer.json, which a PairRM folder needs; use a copy of llm-blender/PairRM-hf."
        )
    return PreTrainedTokenizerFast.from_pretrained(str(folder))


def load_model(folder: Path, marker_ids: tuple[int, int, int]) -> PairRM:
    """The weights of `folder`, every key in its place.

    Raises:
        UserError: config.json is no PairRM-hf config, or the weights are absent, pickled only, damaged or of another
            model.
    """
    config = architecture(folder)
    weights = weights_file(folder)
    model = PairRM(DebertaV2Config(**config), marker_ids)
    try:
        model.load_state_dict(load_file(weights), strict=True)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{weights} does not fit {folder / 'config.json'} as a PairRM: {reason}") from None
    return model


def weights_file(folder: Path) -> Path:
    """The safetensors file of `folder`.

    Raises:
        UserError: it is absent, whatever pickled weights there are beside it.
    """
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise UserError(
            f"{folder} has no model.safetensors; other weight files are pickles, which can run code when read and are "
            "never opened here: use the safetensors file of llm-blender/PairRM-hf."
        )
    return weights


def architecture(folder: Path) -> dict[str, Any]:
    """The DeBERTa-v2 fields of `folder`'s config.json, with PairRM's n_tasks and drop_out.

    Raises:
        UserError: it is absent or the config of something else (llm-blender/PairRM's own names no architecture at all).
    """
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict) or config.get("model_type") != "deberta-v2":
        raise UserError(f"{path} is no PairRM-hf config (model_type deberta-v2); use a copy of llm-blender/PairRM-hf.")
    kept = {key: value for key, value in config.items() if key not in NOT_ARCHITECTURE}
    return {"n_tasks": 1, "drop_out": 0.05, **kept}
