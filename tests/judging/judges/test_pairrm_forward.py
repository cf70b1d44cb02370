"""The judge's own forward pass against transformers' form, and what it is called with."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_pairrm
import torch
from transformers import DebertaV2Config

from epsilon_dpo.judging.judges import pairrm_forward, pairrm_judge
from epsilon_dpo.judging.judges.layout import Layout, Pair
from epsilon_dpo.judging.judges.pairrm import PairRM
from epsilon_dpo.judging.judges.pairrm_folder import architecture, load_model, load_tokenizer
from epsilon_dpo.judging.judges.pairrm_judge import PairRMJudge

pytestmark = pytest.mark.numeric

TEXTS = ["gold is a metal", "honey is from bees", "the moon", "tell me more please", "the earth"]
PAIRS = [Pair(source, a, b) for source in TEXTS[:3] for a in TEXTS for b in TEXTS]  # with both orders of each


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pairrm.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def layout(folder: Path) -> Layout:
    return Layout(load_tokenizer(folder), 40, 24)


@pytest.fixture(scope="module")
def model(folder: Path, layout: Layout) -> PairRM:
    return load_model(folder, layout.marker_ids).eval()


def rows(layout: Layout, *lengths: int) -> dict[str, torch.Tensor]:
    """Random words with the markers at the front, in the middle and at the end."""
    random = torch.Generator().manual_seed(0)
    batch = []
    for length in lengths:
        row = torch.randint(4, 30, (length,), generator=random).tolist()
        row[1], row[length // 2], row[-1] = layout.marker_ids
        batch.append(row)
    return layout.pad(batch)


@pytest.mark.parametrize("lengths", [(5,), (60, 60), (33, 7, 60, 4), (700, 20)])
def test_it_is_the_model_s(model: PairRM, layout: Layout, lengths: tuple[int, ...]) -> None:
    """Alone and padded; 60 tokens are further apart than one bucket each, 700 than the largest distance there is.

    float64 leaves transformers' own rounding of sqrt(3 d) to float32, which is 1e-8 of the scores.
    """
    batch = rows(layout, *lengths)
    twin = load_twin(model).double()
    for tested, tolerance in ((model, 3e-5), (twin, 1e-6)):
        with torch.inference_mode():
            expected = tested(**batch)
        assert expected.abs().min() > 1e-3
        torch.testing.assert_close(pairrm_forward.forward(tested, **batch), expected, rtol=0, atol=tolerance)


def test_segments_are_read_where_the_backbone_has_embeddings_of_them(
    folder: Path, layout: Layout, model: PairRM
) -> None:
    """From marker to marker, whatever stands before; the published PairRM has none, and gets zeros as ever."""
    batch = layout.pad([layout.encode(PAIRS[1]).ab])
    assert model.segments(batch["input_ids"]) is None
    torch.manual_seed(0)
    config = DebertaV2Config(**architecture(folder) | {"type_vocab_size": 3, "initializer_range": 0.3})
    judge = PairRM(config, layout.marker_ids).eval()
    places = [batch["input_ids"][0].tolist().index(marker) for marker in layout.marker_ids]
    counts = [places[1], places[2] - places[1], batch["input_ids"].shape[1] - places[2]]
    segments = judge.segments(batch["input_ids"])
    assert segments is not None and segments.tolist() == [[0] * counts[0] + [1] * counts[1] + [2] * counts[2]]
    with torch.inference_mode():
        expected = judge(**batch)
        torch.testing.assert_close(pairrm_forward.forward(judge, **batch), expected, rtol=0, atol=3e-5)
        judge.pretrained_model.embeddings.token_type_embeddings.weight[1:] = 0.0
        assert (judge(**batch) - expected).abs() > 1e-3


def load_twin(model: PairRM) -> PairRM:
    twin = PairRM(model.pretrained_model.config, model.marker_ids).eval()
    twin.load_state_dict(model.state_dict())
    return twin


def test_another_deberta_has_the_model_s_own_forward(folder: Path, layout: Layout, model: PairRM) -> None:
    assert pairrm_forward.has_its_attention(model.pretrained_model.config)
    fields = {**architecture(folder), "pos_att_type": ["c2p"]}
    other = PairRM(DebertaV2Config(**fields), layout.marker_ids).eval()
    other.load_state_dict(model.state_dict())
    assert not pairrm_forward.has_its_attention(other.pretrained_model.config)
    [verdict] = PairRMJudge(other, layout, 4).compare_texts(PAIRS[1:2])
    with torch.inference_mode():
        expected = other(**layout.pad([layout.encode(PAIRS[1]).ab])).item()
    assert verdict.f_ab == pytest.approx(expected, abs=1e-5)


def test_a_pair_is_judged_once_with_both_orders_in_a_batch_of_like_length(
    model: PairRM, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[tuple[int, ...]]] = []
    monkeypatch.setattr(pairrm_judge, "CPU_TOKENS", 120)
    judge = PairRMJudge(model, layout, batch_size=5)
    real = judge._forward

    def spy(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled() and attention_mask.any(dim=0).all()  # no column of padding only
        batches.append([tuple(ids[mask.bool()].tolist()) for ids, mask in zip(input_ids, attention_mask, strict=True)])
        return real(input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(judge, "_forward", spy)
    verdicts = judge.compare_texts(PAIRS)
    judged = [row for batch in batches for row in batch]
    assert len(judged) == len(set(judged)) == 3 * 5 * 5  # 10 pairs in two orders and 5 answers against themselves
    lengths = [len(row) for row in judged]
    assert lengths == sorted(lengths)
    for pair in PAIRS:
        encoded = layout.encode(pair)
        assert any({tuple(encoded.ab), tuple(encoded.ba)} <= set(batch) for batch in batches)
    for batch in batches:
        assert len(batch) <= 10 and (len(batch) <= 2 or len(batch) * max(map(len, batch)) <= 120)
    found = dict(zip(PAIRS, verdicts, strict=True))
    for (source, a, b), verdict in found.items():
        other = found[Pair(source, b, a)]
        assert verdict == replace(other, f_ab=other.f_ba, f_ba=other.f_ab, len_a=other.len_b, len_b=other.len_a)
        assert (verdict.logit == 0.0) == (a == b)


def test_each_distinct_text_is_tokenised_once(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = layout.tokenizer

    def spy(texts: list[str]) -> dict[str, list[list[int]]]:
        read.extend(texts)
        return real(texts)

    for name in ("sep_token", "cls_token_id", "sep_token_id", "unk_token_id"):
        setattr(spy, name, getattr(real, name))
    alone = [layout.encode(pair) for pair in PAIRS]
    monkeypatch.setattr(layout, "tokenizer", spy)
    assert layout.encode_all(PAIRS) == alone
    assert len(read) == 3 + 5  # as sources and as answers


def test_nothing_is_judged_of_no_pairs(model: PairRM, layout: Layout) -> None:
    assert PairRMJudge(model, layout, 4).compare_texts([]) == []
