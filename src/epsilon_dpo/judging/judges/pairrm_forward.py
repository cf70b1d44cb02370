"""PairRM's forward pass without what judging does not need: the same scores up to rounding, in half the time on a CPU.

DeBERTa's attention adds to q_i · k_j the terms q_i · K[i - j] and k_j · Q[i - j], with K and Q the projected embeddings
of the distance between two tokens. transformers' form multiplies every token with all 512 distances and gathers L of
the results. A row of L tokens has 2 L - 1 distances; multiplied with these in order, the term of tokens i and j is
at column L - 1 + j - i, which a view with strides reads without a copy. And the head looks at the states of three
markers, so the last layer is computed for these three alone.

Training keeps transformers' form (pairrm.py): it needs every state's gradient and the dropouts in their places.
"""

from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Layer, DisentangledSelfAttention

from epsilon_dpo.judging.judges.pairrm import PairRM


def has_its_attention(config: PreTrainedConfig) -> bool:
    """Whether a backbone has the attention that is computed here: that of DeBERTa-v3, and so of the published PairRM.

    Another config.json may describe another DeBERTa-v2; `PairRM.forward` serves it.
    """
    both = getattr(config, "relative_attention", False) and set(config.pos_att_type or []) == {"c2p", "p2c"}
    return bool(both and getattr(config, "share_att_key", False) and not getattr(config, "conv_kernel_size", 0))


@torch.inference_mode()
def forward(model: PairRM, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """`PairRM.forward`, for a model in evaluation mode that `has_its_attention`: f of each row, [rows].

    Args:
        input_ids, attention_mask: [rows, tokens], padded on the right; each marker once a row.
    """
    encoder = model.pretrained_model.encoder
    hidden = model.pretrained_model.embeddings(
        input_ids=input_ids, token_type_ids=model.segments(input_ids), mask=attention_mask
    )
    buckets = encoder.get_rel_pos(hidden)[0]  # [L, L]: of the distance of each two tokens
    embeddings = encoder.get_rel_embedding()
    padding = None if attention_mask.all() else attention_mask[:, None] == 0
    layers: list[Any] = list(encoder.layer)
    for layer in layers[:-1]:
        hidden = _rest(layer, hidden, _all_positions(layer.attention.self, hidden, buckets, embeddings, padding))
    row = torch.arange(len(hidden), device=hidden.device)[:, None]
    markers = torch.stack([(input_ids == id_).int().argmax(1) for id_ in model.marker_ids], dim=1)  # [rows, 3]
    context = _some_positions(layers[-1].attention.self, hidden, markers, buckets, embeddings, padding)
    source, first, second = _rest(layers[-1], hidden[row, markers], context).unbind(1)
    left = model.head_layer(torch.cat([source, first], dim=-1))
    right = model.head_layer(torch.cat([source, second], dim=-1))
    return (left - right).mean(dim=-1)


def _rest(layer: DebertaV2Layer, hidden: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """What follows the attention in a layer, [rows, positions, hidden]."""
    attended = layer.attention.output(context, hidden)
    return layer.output(layer.intermediate(attended), attended)


def _all_positions(
    attention: DisentangledSelfAttention,
    hidden: torch.Tensor,
    buckets: torch.Tensor,
    embeddings: torch.Tensor,
    padding: torch.Tensor | None,
) -> torch.Tensor:
    """The attention's output for every token, [rows, L, hidden]."""
    query, key, value = (_heads(attention, project(hidden)).contiguous() for project in _projections(attention))
    query = query * _scale(attention)
    distances = torch.cat([buckets[:, 0].flip(0), buckets[0, 1:]])  # of j - i = -(L - 1) .. L - 1
    position_key, position_query = _positions(attention, embeddings, distances, -distances)
    # One after the other: each product is larger than all the scores, and this is where a batch needs most memory.
    bias = _skewed(_by_distance(query, position_key)).contiguous()
    bias += _skewed(_by_distance(key, position_query * _scale(attention))).mT
    return _attend(query, key, value, bias, padding)


def _by_distance(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """[heads, rows, L, 2 L - 1] of `states` [heads, rows, L, d]: one product a head for all rows."""
    return (states.flatten(1, 2) @ positions.mT).unflatten(1, states.shape[1:3])


def _some_positions(
    attention: DisentangledSelfAttention,
    hidden: torch.Tensor,
    wanted: torch.Tensor,
    buckets: torch.Tensor,
    embeddings: torch.Tensor,
    padding: torch.Tensor | None,
) -> torch.Tensor:
    """The same for the positions in `wanted` [rows, n] only, [rows, n, hidden]."""
    to_query, *to_others = _projections(attention)
    row = torch.arange(len(hidden), device=hidden.device)[:, None]
    query = _heads(attention, to_query(hidden[row, wanted])) * _scale(attention)
    key, value = (_heads(attention, project(hidden)).contiguous() for project in to_others)
    distances = buckets[wanted]  # [rows, n, L]
    position_key, position_query = _positions(attention, embeddings, distances, -buckets.T[wanted])
    of_query = torch.einsum("hbnd,hbnld->hbnl", query, position_key)
    of_key = torch.einsum("hbld,hbnld->hbnl", key, position_query * _scale(attention))
    return _attend(query, key, value, of_query + of_key, padding)


def _projections(attention: DisentangledSelfAttention) -> tuple[torch.nn.Linear, torch.nn.Linear, torch.nn.Linear]:
    return attention.query_proj, attention.key_proj, attention.value_proj


def _heads(attention: DisentangledSelfAttention, states: torch.Tensor) -> torch.Tensor:
    """[..., n, hidden] as [heads, ..., n, d]."""
    return states.unflatten(-1, (attention.num_attention_heads, -1)).movedim(-2, 0)


def _scale(attention: DisentangledSelfAttention) -> float:
    """Three terms are added, so each is divided by sqrt(3 d)."""
    return float((3 * attention.attention_head_size) ** -0.5)


def _positions(
    attention: DisentangledSelfAttention, embeddings: torch.Tensor, for_key: torch.Tensor, for_query: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and queries of distances given by their buckets: [heads, *shape of the buckets, d] each."""
    span = attention.pos_ebd_size
    found = []
    for project, wanted in ((attention.key_proj, for_key), (attention.query_proj, for_query)):
        index = (wanted + span).clamp(0, 2 * span - 1)
        low, high = int(index.min()), int(index.max()) + 1  # what no two tokens are apart is not projected
        found.append(_heads(attention, project(embeddings[low:high]))[:, index - low])
    return found[0], found[1]


def _skewed(products: torch.Tensor) -> torch.Tensor:
    """[..., L, 2 L - 1], where column L - 1 + j - i belongs to tokens i and j, read as [..., L, L]."""
    *outer, length, _ = products.shape
    *strides, down, _ = products.stride()
    return products.as_strided((*outer, length, length), (*strides, down - 1, 1), length - 1)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, padding: torch.Tensor | None
) -> torch.Tensor:
    """[rows, n, hidden] of scaled `query` [heads, rows, n, d]; `padding` [rows, 1, L] is true where no token is."""
    heads, rows = query.shape[:2]
    scores = torch.baddbmm(bias.flatten(0, 1), query.flatten(0, 1), key.flatten(0, 1).mT).unflatten(0, (heads, rows))
    if padding is not None:
        scores.masked_fill_(padding, -torch.inf)
    return (scores.softmax(dim=-1) @ value).movedim(0, -2).flatten(-2)
