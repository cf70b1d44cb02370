"""The chunked head against the plain formulas in float64, and the models' second forward against their logits."""

import itertools

import pytest
import torch
from transformers import (
    CohereForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    GraniteForCausalLM,
    HyperCLOVAXForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
)
from trl_trainers import float32_means_float64

from epsilon_dpo.models.logps.head import Scoring, add_logps_head, check_head, completion_logps, head_of
from epsilon_dpo.models.logps.kernel import Head, Reference, TokenLogps, token_logps
from epsilon_dpo.pipeline.observability.errors import UserError

pytestmark = pytest.mark.numeric

N, H, V = 23, 8, 50


def naive(hidden, head, labels, reference, epsilon):
    """The same six values with all logits at once."""

    def logits(states, head):
        raw = states @ head.weight.T + (0 if head.bias is None else head.bias)
        return raw if head.softcap is None else head.softcap * torch.tanh(raw / head.softcap)

    f, g = logits(hidden, head), logits(reference.hidden, reference.head)
    pick = lambda mixed: mixed.log_softmax(-1).gather(1, labels[:, None])[:, 0]  # noqa: E731
    kl = lambda a, b: (a.softmax(-1) * (a.log_softmax(-1) - b.log_softmax(-1))).sum(-1)  # noqa: E731
    low, high = (1 + epsilon) * f - epsilon * g, (1 - epsilon) * f + epsilon * g
    entropy = -(f.softmax(-1) * f.log_softmax(-1)).sum(-1)
    return TokenLogps(pick(f), entropy, pick(g), pick(low), pick(high), kl(g, f), kl(f, g))


def with_perturbed(found):
    """`found` of `exact` with the perturbed log-probs that its changes make."""
    minus, plus = (found.policy.detach() + delta for delta in (found.delta_minus, found.delta_plus))
    return found._replace(logps_beta_minus=minus, logps_beta_plus=plus)


def problem(softcap, bias, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    head = Head(2 * draw(V, H), draw(V) if bias else None, softcap)
    reference = Reference(draw(N, H), Head(2 * draw(V, H), draw(V) if bias else None, softcap))
    return draw(N, H), head, torch.randint(V, (N,), generator=generator), reference, draw(N)


@pytest.mark.parametrize(
    ("softcap", "bias", "token_chunk", "vocab_tile"),
    [(5.0, False, 1, 7), (5.0, True, 7, V), (None, True, N + 5, 13), (None, False, 7, V + 1)],
)
@pytest.mark.parametrize("precision", ["exact", "fp32"])
def test_equals_the_plain_formulas_values_and_gradients(softcap, bias, token_chunk, vocab_tile, precision):
    hidden, head, labels, reference, weights = problem(softcap, bias)
    leaves = [tensor for tensor in (hidden, head.weight, head.bias) if tensor is not None]
    gradients = []
    results = []
    for compute in (
        lambda: naive(hidden, head, labels, reference, 0.1),
        lambda: token_logps(hidden, head, labels, token_chunk, reference, 0.1, precision, vocab_tile=vocab_tile),
    ):
        for leaf in leaves:
            leaf.requires_grad_().grad = None
        results.append(compute())
        (results[-1].policy * weights).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    if precision == "exact":
        results[1] = with_perturbed(results[1])
    for name, expected, got in zip(TokenLogps._fields[:7], results[0], results[1], strict=False):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    for expected, got in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert [field.requires_grad for field in results[1][:7]] == [True] + [False] * 6


def test_gradcheck():
    hidden, head, labels, reference, _ = problem(5.0, True)
    inputs = (hidden[:5].requires_grad_(), head.weight.requires_grad_(), head.bias.requires_grad_())
    cut = Reference(reference.hidden[:5], reference.head)

    def policy(hidden, weight, bias):
        return token_logps(hidden, Head(weight, bias, 5.0), labels[:5], 2, cut, 0.1, vocab_tile=17).policy

    assert torch.autograd.gradcheck(policy, inputs)


@pytest.mark.parametrize("precision", ["exact", "fp32"])
def test_equal_models_tie_exactly_in_float32(precision):
    hidden, head, labels, _, _ = problem(30.0, False, torch.float32)
    found = token_logps(hidden, head, labels, 7, Reference(hidden, head), 0.1, precision, vocab_tile=13)
    if precision == "exact":
        assert not found.delta_minus.any() and not found.delta_plus.any()
        found = with_perturbed(found)
    for name in ("reference", "logps_beta_minus", "logps_beta_plus"):
        assert torch.equal(getattr(found, name), found.policy.detach()), name
    assert not found.kl_ref_policy.any() and not found.kl_policy_ref.any()


def test_what_is_not_asked_for_is_not_computed():
    hidden, head, labels, reference, _ = problem(None, False)
    assert token_logps(hidden, head, labels, 7)[2:] == (None,) * 10
    found = token_logps(hidden, head, labels, 7, reference)
    for name in ("logps_beta_minus", "logps_beta_plus", "delta_minus", "delta_plus"):
        assert getattr(found, name) is None, name
    assert found.kl_ref_policy is not None
    with pytest.raises(ValueError, match="need a reference"):
        token_logps(hidden, head, labels, 7, eps_c=0.1)


def test_bfloat16_weights_are_summed_in_float32():
    hidden, head, labels, reference, weights = problem(5.0, True, torch.bfloat16)
    leaves = hidden, head.weight, head.bias
    exact = [leaf.double().requires_grad_() for leaf in leaves]
    frozen = [tensor.double() for tensor in (reference.hidden, reference.head.weight, reference.head.bias)]
    expected = naive(exact[0], Head(*exact[1:], 5.0), labels, Reference(frozen[0], Head(*frozen[1:], 5.0)), 0.1)
    expected.policy.mul(weights.double()).sum().backward()
    for leaf in leaves:
        leaf.requires_grad_()
    found = token_logps(hidden, head, labels, 7, reference, 0.1, vocab_tile=13)
    found.policy.mul(weights.float()).sum().backward()
    assert found.policy.dtype == torch.float32 and head.weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(found.policy.detach(), expected.policy.detach().float(), rtol=0.02, atol=0.02)
    for leaf, precise in zip(leaves, exact, strict=True):
        torch.testing.assert_close(leaf.grad.double(), precise.grad, rtol=0.02, atol=0.02 * precise.grad.abs().max())


def batch(pad_columns: int):
    ids = torch.tensor([[1, 5, 6, 7, 8, 2, 0], [1, 9, 10, 2, 0, 0, 0]])
    completion = torch.tensor([[0, 0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0, 0]])
    pad = torch.zeros(2, pad_columns, dtype=torch.long)
    ids, completion = torch.cat([ids, pad], 1), torch.cat([completion, pad], 1)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "completion_mask": completion}


@pytest.mark.parametrize(("tied", "softcap"), [(True, 30.0), (False, None)])
def test_a_model_scores_the_tokens_that_follow(tiny_gemma, tied, softcap):
    changes = {"tie_word_embeddings": tied, "final_logit_softcapping": softcap}
    policy, reference = tiny_gemma(0, **changes).double(), tiny_gemma(1, **changes).double()
    inputs = batch(0)
    found = completion_logps(policy, reference, **inputs, token_chunk=2, eps_c=0.1)
    with torch.no_grad():
        f = policy(inputs["input_ids"], inputs["attention_mask"]).logits[:, :-1]
        g = reference(inputs["input_ids"], inputs["attention_mask"]).logits[:, :-1]
    labels, mask = inputs["input_ids"][:, 1:, None], inputs["completion_mask"][:, 1:]
    log_pi, log_ref = (x.log_softmax(-1).gather(-1, labels)[..., 0] * mask for x in (f, g))
    kl = (g.softmax(-1) * (g.log_softmax(-1) - f.log_softmax(-1))).sum(-1)
    torch.testing.assert_close(found.policy, log_pi, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.reference, log_ref, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.kl_ref_policy, kl * mask, rtol=0, atol=1e-12)
    assert (found.kl_ref_policy[mask.bool()] > 0).all()


def test_padding_changes_nothing_and_the_stop_token_predicts_nothing(tiny_gemma):
    model = tiny_gemma(0, tie_word_embeddings=False).double()
    add_logps_head(model)
    sums = []
    for pad_columns in (0, 3):
        model.zero_grad()
        with float32_means_float64():  # in float32, norms round by how many columns there are
            total = model(**batch(pad_columns), scoring=Scoring(token_chunk=4)).policy.sum(-1)
            total.sum().backward()
        sums.append((total.detach(), model.lm_head.weight.grad, model.model.embed_tokens.weight.grad))
    for left, right in itertools.pairwise(sums):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)
    used = model.model.embed_tokens.weight.grad.abs().sum(-1) > 0
    assert used[[1, 5, 6, 7, 8, 9, 10]].all() and not used[[0, 2]].any()


def test_the_second_mode_leaves_the_first_alone(tiny_gemma):
    model, plain = tiny_gemma(), tiny_gemma()
    add_logps_head(model)
    ids = batch(0)["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain(ids).logits)
    settings = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(model.generate(ids, **settings), plain.generate(ids, **settings))


def test_bfloat16_autocast_ties_with_an_equal_reference(tiny_gemma):
    policy, reference = tiny_gemma(), tiny_gemma()
    add_logps_head(policy), add_logps_head(reference)
    inputs = batch(0)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            states = Reference(reference(**inputs), head_of(reference))
        found = policy(**inputs, scoring=Scoring(4, states, 0.1))
        definition = policy(**inputs, scoring=Scoring(4, states, 0.1, "fp32"))
    assert torch.equal(found.policy.detach(), found.reference)
    assert not found.delta_minus.any() and not found.delta_plus.any()
    assert torch.equal(definition.logps_beta_minus, definition.logps_beta_plus)
    found.policy.sum().backward()
    assert policy.lm_head.weight.grad.dtype == torch.float32 and policy.lm_head.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        (CohereForCausalLM, {"logit_scale": 0.3}),
        (GraniteForCausalLM, {"logits_scaling": 3.0}),
        (HyperCLOVAXForCausalLM, {"logits_scaling": 0.25}),
    ],
)
def test_logits_that_the_configuration_scales(kind, scale):
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = kind(kind.config_class(**sizes, **heads, **scale, pad_token_id=0, bos_token_id=1, eos_token_id=2)).double()
    check_head(model)
    inputs = batch(0)
    found = completion_logps(model, model, **inputs, token_chunk=2)
    log_pi = model(inputs["input_ids"], inputs["attention_mask"]).logits[:, :-1].log_softmax(-1)
    expected = log_pi.gather(-1, inputs["input_ids"][:, 1:, None])[..., 0] * inputs["completion_mask"][:, 1:]
    torch.testing.assert_close(found.policy, expected.detach(), rtol=0, atol=1e-12)


def test_a_hybrid_whose_head_is_scaled_is_known():
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "mamba_n_heads": 4, "mamba_d_head": 8}
    mamba = {"mamba_d_ssm": 32, "mamba_d_state": 8, "lm_head_multiplier": 0.3}
    check_head(FalconH1ForCausalLM(FalconH1Config(**sizes, **heads, **mamba, pad_token_id=0)))


def test_a_model_whose_logits_are_no_numbers_is_told_so(tiny_gemma):
    """And not that its dropout makes two passes differ; also where it is of some tokens only."""
    model = tiny_gemma(tie_word_embeddings=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[5].fill_(float("nan"))
    with pytest.raises(UserError, match="the log-probs of Gemma2ForCausalLM are not finite on a few tokens"):
        check_head(model)


@pytest.mark.parametrize(("softcap", "bias"), [(30.0, 60.0), (None, -100.0)])
def test_logits_that_bfloat16_rounds_are_those_of_the_head(tiny_gemma, softcap, bias):
    """Gemma 2's lie below their cap of 30, GPT-2's at -100: there bfloat16 rounds to an eighth and to half a nat."""
    model = tiny_gemma(final_logit_softcapping=softcap)
    model.lm_head.bias = torch.nn.Parameter(torch.full((64,), bias))
    check_head(model.bfloat16())


def test_a_model_that_does_not_say_where_its_hidden_states_are_is_refused():
    """Llama 4's prefix names a part that its language model alone does not have."""
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "intermediate_size_mlp": 16}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    few = {"num_local_experts": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    with pytest.raises(UserError, match="the logits of Llama4ForCausalLM are not its last hidden states times"):
        check_head(Llama4ForCausalLM(Llama4TextConfig(**sizes, **heads, **few)))


@pytest.mark.parametrize("scale", [0.0625, 0.99])
def test_a_head_that_scales_its_logits_in_its_own_way_is_refused(tiny_gemma, scale):
    model = tiny_gemma(attention_dropout=0.5).train()
    check_head(model)
    assert model.training
    model.config.final_logit_softcapping = 1.0  # seen by the model's own forward and by head_of alike
    check_head(model)
    plain_forward = model.forward

    def scaled(*args, **kwargs):
        output = plain_forward(*args, **kwargs)
        output.logits = output.logits * scale
        return output

    model.forward = scaled
    with pytest.raises(UserError, match="Gemma2ForCausalLM"):
        check_head(model)
