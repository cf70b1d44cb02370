"""PairRM (Jiang et al., LLM-Blender, 2023): a cross-encoder that says by how much answer a is better than answer b.

Architecture and state-dict keys are those of llm-blender/PairRM and llm-blender/PairRM-hf (the same keys), so that
their weights load here; the llm-blender package itself cannot be imported beside transformers 5.
"""

import torch
from torch import nn
from transformers import DebertaV2Config, DebertaV2Model

SEGMENTS = 3  # the source and two candidates


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
        hidden = self.pretrained_model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=self.segments(input_ids)
        ).last_hidden_state
        row = torch.arange(len(hidden), device=hidden.device)
        source, first, second = (hidden[row, (input_ids == id_).int().argmax(1)] for id_ in self.marker_ids)
        left = self.head_layer(torch.cat([source, first], dim=-1))
        right = self.head_layer(torch.cat([source, second], dim=-1))
        return (left - right).mean(dim=-1)

    def segments(self, input_ids: torch.Tensor) -> torch.Tensor | None:
        """Of each token, 0 in the source, 1 in the first candidate, 2 in the second, from marker to marker.

        Returns:
            [pairs, tokens]; None for a backbone without embeddings of three segments, as the published one.
        """
        if self.pretrained_model.config.type_vocab_size != SEGMENTS:
            return None
        _, first, second = self.marker_ids
        return ((input_ids == first).int() + (input_ids == second).int()).cumsum(1)
