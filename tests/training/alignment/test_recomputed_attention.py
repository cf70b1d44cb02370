"""Attention that is computed again: the same values, without what eager attention keeps."""

import inspect
import sys

import pytest
import torch

from epsilon_dpo.training.alignment.recomputed_attention import recompute_attention

pytestmark = pytest.mark.numeric


def gradients_and_kept(model, ids):
    """Of the loss of a language model, and how many values of shape [.., T, T] the forward pass kept for them."""
    kept = {}

    def pack(tensor):
        if tensor.shape[-2:] == (ids.shape[1], ids.shape[1]) and tensor.requires_grad:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss, [parameter.grad for parameter in model.parameters()], sum(kept.values())


@pytest.mark.parametrize("softcap", [50.0, None])
def test_bit_for_bit_the_same_and_no_weights_kept(tiny_gemma, softcap):
    ids = torch.randint(3, 64, (3, 37), generator=torch.Generator().manual_seed(1))
    plain, recomputed = (tiny_gemma(attn_logit_softcapping=softcap) for _ in range(2))
    for model in (plain, recomputed):
        model.set_attn_implementation("eager")
        model.train()
    recompute_attention(recomputed)
    loss, gradients, kept = gradients_and_kept(plain, ids)
    again, others, kept_again = gradients_and_kept(recomputed, ids)
    assert torch.equal(loss, again)
    assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))
    assert kept > 0 and kept_again == 0


def test_the_saved_model_does_not_ask_for_it(tiny_gemma, tmp_path):
    model = tiny_gemma()
    recompute_attention(model)
    model.save_pretrained(tmp_path)
    assert "recomputed" not in (tmp_path / "config.json").read_text("utf-8")
    assert type(model).from_pretrained(tmp_path).config._attn_implementation == "eager"


def test_an_architecture_that_asks_for_the_name_keeps_its_own(monkeypatch, tiny_gemma):
    """hy_v4 leaves its sparse mask out under any name but eager and sdpa."""
    model = tiny_gemma()
    module = sys.modules[type(model).__module__]
    source = inspect.getsource(module) + 'if self.config._attn_implementation in ("eager", "sdpa"): ...'
    monkeypatch.setattr(inspect, "getsource", lambda asked: source if asked is module else None)
    recompute_attention(model)
    assert model.config._attn_implementation == "eager"
