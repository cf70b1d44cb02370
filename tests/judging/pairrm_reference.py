"""PairRM a second time, as plainly as it can be said: the oracle that judges/ must equal bit for bit.

It was compared with unmodified llm-blender 0.0.2 (transformers 4.38.2) when it was written, max |difference| 0.0. It
encodes, cuts and pads with the tokenizer's own truncation, in the order given, and shares nothing with src/.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import DebertaV2Config, DebertaV2Model, PreTrainedTokenizerFast

SRC, C1, C2, C0 = "<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"


class ReferenceModel(nn.Module):
    def __init__(self, config: DebertaV2Config, marker_ids: list[int], n_tasks: int, dropout: float) -> None:
        super().__init__()
        h = config.hidden_size
        self.pretrained_model = DebertaV2Model(config)
        self.head_layer = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(2 * h, h), nn.Tanh(), nn.Dropout(dropout), nn.Linear(h, n_tasks)
        )
        self.marker_ids = marker_ids

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.pretrained_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        row = torch.arange(len(hidden))
        s, a, b = (hidden[row, (input_ids == i).int().argmax(1)] for i in self.marker_ids)
        return (self.head_layer(torch.cat([s, a], -1)) - self.head_layer(torch.cat([s, b], -1))).mean(-1)


class Reference:
    def __init__(self, folder: Path, source_max: int, candidate_max: int, budget: str = "example") -> None:
        raw = json.loads((folder / "config.json").read_text("utf-8"))
        for key in ("architectures", "torch_dtype", "dtype", "transformers_version"):
            raw.pop(key, None)
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))  # not AutoTokenizer
        ids = self.tokenizer.convert_tokens_to_ids([SRC, C1, C2])
        self.model = ReferenceModel(DebertaV2Config(**raw), ids, raw["n_tasks"], raw["drop_out"]).eval()
        self.model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
        self.source_max, self.candidate_max, self.budget = source_max, candidate_max, budget

    def ids(self, sources: list[str], firsts: list[str], seconds: list[str]) -> list[list[int]]:
        """The rows of one batch."""
        encoded = [self._encode(SRC + self._clean(text), self.source_max) for text in sources]
        longest = max(map(len, encoded))
        rows = []
        for source, first, second in zip(encoded, firsts, seconds, strict=True):
            taken = longest if self.budget == "batch" else len(source)
            room = self.candidate_max + (self.source_max - taken) // 2
            rows.append(
                source + self._encode(C1 + self._clean(first), room) + self._encode(C2 + self._clean(second), room)
            )
        return rows

    @torch.inference_mode()
    def f(self, sources: list[str], firsts: list[str], seconds: list[str], batch_size: int) -> torch.Tensor:
        """[rows]; positive: the first is better."""
        found = []
        for i in range(0, len(sources), batch_size):
            batch = slice(i, i + batch_size)
            rows = self.ids(sources[batch], firsts[batch], seconds[batch])
            longest = max(map(len, rows))
            input_ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
            mask = torch.zeros_like(input_ids)
            for r, row in enumerate(rows):
                input_ids[r, : len(row)] = torch.tensor(row)
                mask[r, : len(row)] = 1
            found.append(self.model(input_ids, mask))
        return torch.cat(found)

    def rank_scores(self, source: str, candidates: list[str]) -> torch.Tensor:
        """[candidates]: (1/n) sum_j (M[i, j] - M[j, i]), one row at a time."""
        n = len(candidates)
        matrix = torch.zeros(n, n, dtype=torch.float64)
        for i in range(n):
            for j in range(n):
                if i != j:
                    matrix[i, j] = self.f([source], [candidates[i]], [candidates[j]], 1).item()
        return (matrix - matrix.T).mean(-1)

    def _clean(self, text: str) -> str:
        for marker in (self.tokenizer.sep_token, SRC, C1, C2, C0):
            text = text.replace(marker, " ")
        return text

    def _encode(self, text: str, max_length: int) -> list[int]:
        return self.tokenizer(text, max_length=max_length, truncation=True)["input_ids"]
