"""LoRA and QLoRA through the calls of stages sft and align: what is trained, what it is compared with, what is kept."""

import importlib.util
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from runs import DPO, EPSILON_DPO, HARD, LORA, SOFT, config, content
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, MixtralForCausalLM

from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.methods.tr_dpo import move_reference
from epsilon_dpo.models.logps.head import Scoring, add_logps_head, head_of
from epsilon_dpo.models.policy.folder import load_policy, merged_policy
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.training.alignment.alignment import start
from epsilon_dpo.training.alignment.pair_data import PairCollator
from epsilon_dpo.training.alignment.reference_model import PolicyWithoutAdapter
from epsilon_dpo.training.loop import adapters
from epsilon_dpo.training.loop.adapters import ADAPTER, FOLLOWER, adapter_weights, add_follower, start_from
from epsilon_dpo.training.loop.params import LoRA
from epsilon_dpo.training.sft.params import SFT
from epsilon_dpo.training.sft.sft import fine_tune

pytestmark = pytest.mark.numeric

LOG_TWO = 0.6931471805599453
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} w{{ m['role'] | length }} {{ m['content'] }} {{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %} w9{% endif %}"
)
FAST = {"learning_rate": 1e-2, "warmup_ratio": 0.0}


def lora(**changes):
    return LoRA(**{**LORA, **changes})


def rows_of(folder):
    return read_jsonl(folder / "metrics.jsonl")


def mean_logp(model, pairs, side):
    """By the model's own logits."""
    sums = []
    for pair in pairs:
        ids, start = torch.tensor([pair["prompt_ids"] + pair[side]]), len(pair["prompt_ids"])
        with torch.no_grad():
            scores = model(ids).logits[0, :-1].log_softmax(-1)
        sums.append(scores.gather(1, ids[0, 1:, None])[start - 1 :].sum().item())
    return sum(sums) / len(sums)


@pytest.mark.parametrize("share_prompt", [False, True])
def test_the_first_step_is_that_of_the_full_model(run, share_prompt):
    """An adapter starts as an exact zero: every number but the gradient's norm, and ε-DPO's tie, to the last bit."""
    full, adapted = (
        rows_of(run(name, EPSILON_DPO, max_steps=1, warmup_ratio=0.0, share_prompt=share_prompt, lora=block))[0]
        for name, block in (("full", None), ("adapted", lora()))
    )
    assert full.pop("grad_norm") > adapted.pop("grad_norm") > 0
    assert adapted == full and adapted["eps/kept"] == 1.0


def test_the_adapters_gradient_is_that_of_the_weights(sft_folder, token_pairs):
    """With an update s B A of a weight W: d/dB = s (d/dW) Aᵀ, and d/dA = 0 while B is zero. The head gets none."""
    folder = sft_folder()
    full, adapted = load_policy(folder), start_from(folder, lora(), seed=3)
    batch = PairCollator(0, share_prompt=True)(token_pairs(4))
    for model in (full, adapted):
        add_logps_head(model)
        model(**batch, scoring=Scoring(token_chunk=5)).policy.sum().backward()
    found = dict(adapted.named_parameters())
    scale = LORA["lora_alpha"] / LORA["r"]
    adapted_modules = {name.split(".lora_A")[0] for name in found if ".lora_A." in name}
    assert len(adapted_modules) == 2 * 7
    for name in adapted_modules:
        a, b = (found[f"{name}.lora_{half}.{ADAPTER}.weight"] for half in "AB")
        wanted = scale * full.get_parameter(f"{name}.weight").grad @ a.detach().T
        torch.testing.assert_close(b.grad, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())
        assert not a.grad.any() and wanted.any()
    assert {name for name, weight in found.items() if weight.requires_grad} == {n for n in found if "lora_" in n}
    assert head_of(adapted).weight.grad is None


def test_an_adapter_starts_from_its_seed(sft_folder):
    """Runs of several seeds that began alike would differ too little, and an interval over them be too narrow."""
    folder = sft_folder()
    one, same, other = (adapter_weights(start_from(folder, lora(), seed), ADAPTER) for seed in (3, 3, 4))
    assert all(map(torch.equal, one, same))
    drawn = [(mine, theirs) for mine, theirs in zip(one, other, strict=True) if mine.any()]  # the others start at 0
    assert len(drawn) == 2 * 7 and not any(torch.equal(mine, theirs) for mine, theirs in drawn)


def test_without_its_adapter_the_policy_is_the_reference_bit_for_bit(sft_folder, token_pairs):
    folder = sft_folder()
    policy, second = start_from(folder, lora(), seed=3), load_policy(folder)
    for weight in adapter_weights(policy, ADAPTER):
        torch.nn.init.normal_(weight)
    for model in (policy, second):
        add_logps_head(model)
    policy.train()
    rows = PairCollator(0, share_prompt=True)(token_pairs(4))
    before = policy(**rows).detach()
    reference = PolicyWithoutAdapter(policy, None)(rows)
    assert torch.equal(reference.hidden, second(**rows)) and not reference.hidden.requires_grad
    assert torch.equal(reference.head.weight, head_of(second).weight)
    after = policy(**rows)  # and the adapter is back, in training
    assert torch.equal(after, before) and after.requires_grad and not torch.equal(after, reference.hidden)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_leaves_an_adapter_that_is_the_trained_policy(run, sft_folder, token_pairs, tmp_path, dtype):
    base = content(sft_folder(dtype))
    out = run("adapted", DPO, dtype=dtype, num_train_epochs=4.0, lora=lora(), **FAST)
    assert content(tmp_path / "sft") == base
    assert rows_of(out)[-1]["loss"] < 0.8 * rows_of(out)[0]["loss"]
    files = content(out / "model")
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "generation_config.json"} <= set(
        files
    )
    assert not {"model.safetensors", "config.json"} & set(files)
    weights = sum(weight.numel() for weight in adapter_weights(start_from(tmp_path / "sft", lora(), 0), ADAPTER))
    assert len(files["adapter_model.safetensors"]) < 4 * weights + 8000  # float32 and their names
    config = read_json(out / "model" / "adapter_config.json")
    assert config["base_model_name_or_path"] == str(tmp_path / "sft") and config["revision"] == digest(tmp_path / "sft")
    policy, metrics = load_policy(out / "model").eval(), read_json(out / "metrics.json")
    assert policy.dtype == torch.float32 and policy.generation_config.eos_token_id == 2
    assert type(policy.model.layers[0].mlp.up_proj) is torch.nn.Linear
    rounding = 1e-4 if dtype == torch.float32 else 0.1  # a bfloat16 base computes in bfloat16 while it is trained
    for side in ("chosen", "rejected"):
        merged = mean_logp(policy, token_pairs(27)[22:], f"{side}_ids")
        assert merged == pytest.approx(metrics[f"eval_logps/{side}"], abs=rounding)
    start = mean_logp(load_policy(tmp_path / "sft", torch.float32).eval(), token_pairs(27)[22:], "rejected_ids")
    assert abs(start - metrics["eval_logps/rejected"]) > 0.2


def test_merging_loses_nothing_on_a_bfloat16_base(run, tmp_path):
    """Of these updates four in five are smaller than half the spacing of the weight's bfloat16 values."""
    out = run("small", DPO, dtype=torch.bfloat16, lora=lora(), learning_rate=1e-4)
    name = "model.layers.1.mlp.up_proj"
    base, policy = (load_policy(folder).get_parameter(f"{name}.weight") for folder in (tmp_path / "sft", out / "model"))
    found = load_file(out / "model" / "adapter_model.safetensors")
    a, b = (found[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
    update = LORA["lora_alpha"] / LORA["r"] * b @ a
    torch.testing.assert_close(policy - base.float(), update, rtol=0, atol=1e-7)
    lost = (base.float() + update).bfloat16() == base
    assert update.all() and lost.float().mean() > 0.8


def test_gradient_checkpointing_changes_nothing(run):
    settings = {"lora": lora(), "num_train_epochs": 1.0, **FAST}
    plain = rows_of(run("plain", EPSILON_DPO, **settings))
    assert rows_of(run("thrifty", EPSILON_DPO, gradient_checkpointing=True, **settings)) == plain
    half = rows_of(run("half", EPSILON_DPO, bf16=True, **settings))
    assert half[0]["eps/kept"] == 1.0 and half[-1]["loss"] == pytest.approx(plain[-1]["loss"], rel=0.1)


def test_a_reference_that_follows_is_a_second_adapter(run):
    """After a hard update it is the policy: log 2 again, while the KL is still that from the first reference."""
    rows = rows_of(run("hard", HARD, lora=lora(), **FAST))
    tied = [row for row in rows if row["loss"] == pytest.approx(LOG_TWO, abs=1e-7)]
    assert [row["step"] for row in tied] == [1, 4, 7, 10]
    assert tied[0]["kl/fwd_data"] == 0.0 and all(row["kl/fwd_data"] > 1e-4 for row in tied[1:])
    never = run("never", SOFT | {"sync_steps": 12}, lora=lora(), **FAST, max_steps=12)
    plain, moved = run("plain", DPO, lora=lora(), **FAST), run("moved", SOFT, lora=lora(), **FAST)
    weights = [content(out / "model")["adapter_model.safetensors"] for out in (never, plain, moved)]
    assert weights[0] == weights[1] != weights[2]
    assert rows_of(moved)[-1]["tr_dpo/syncs"] == 4


def test_a_soft_update_moves_the_followers_halves(sft_folder):
    """Not their product, from which it differs by -α (1-α) (B - B') (A - A')."""
    policy = start_from(sft_folder(), lora(), seed=3)
    torch.nn.init.normal_(policy.model.layers[0].mlp.up_proj.lora_B[ADAPTER].weight)
    add_follower(policy)
    ours, theirs = adapter_weights(policy, ADAPTER), adapter_weights(policy, FOLLOWER)
    assert all(map(torch.equal, ours, theirs))
    with torch.no_grad():
        start = [weight.clone() for weight in theirs]
        for weight in ours:
            weight.add_(torch.randn_like(weight))
        move_reference(theirs, ours, 0.25)
    for before, weight, target in zip(start, theirs, ours, strict=True):
        torch.testing.assert_close(weight, 0.75 * before + 0.25 * target)
    assert all(weight.requires_grad for weight in ours) and not any(weight.requires_grad for weight in theirs)


@pytest.fixture
def both_stages(sft_folder, run, tmp_path, monkeypatch):
    """SFT and alignment with LoRA as a project runs them, from its root: out/base, out/sft, out/align/dpo."""
    monkeypatch.chdir(tmp_path)
    folder = sft_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained("out/base/tokenizer")
    load_policy(folder).save_pretrained("out/base/model")
    shutil.rmtree(folder)
    words = lambda row: " ".join(f"w{4 + (row * 7 + n) % 50}" for n in range(2 + row % 5))  # noqa: E731
    message = lambda role, text: [{"role": role, "content": text}]  # noqa: E731
    other = message("assistant", "w4")
    pairs = [
        {"id": str(n), "prompt": message("user", "w5 w6"), "chosen": message("assistant", words(n)), "rejected": other}
        for n in range(12)
    ]
    (tmp_path / "validated").mkdir()
    write_jsonl(tmp_path / "validated" / "train.jsonl", pairs)
    write_jsonl(tmp_path / "validated" / "eval.jsonl", pairs[:3])

    def call(sft_lora, align_lora):
        given = config(learning_rate=1e-2, num_train_epochs=8.0).model_dump(include=set(SFT.model_fields))
        sft = SFT(**given | {"completion_only_loss": True, "lora": sft_lora})
        out, tokens = Path("out/sft"), Tokens(max_prompt_length=8, max_length=16)
        out.mkdir(parents=True, exist_ok=True)
        track = lambda metrics, step: None  # noqa: E731
        fine_tune(sft, tokens, 5, Path("out/base"), Path("validated"), out, Path("scratch/sft"), track, save_steps=4)
        return run("out/align", EPSILON_DPO, lora=align_lora, model=Path("out/sft/model"), **FAST)

    return call


def test_both_stages_with_an_adapter_each(both_stages, tmp_path, monkeypatch, token_pairs):
    out = both_stages(lora(lora_dropout=0.1), lora(target_modules=["q_proj", "v_proj"]))
    sft_rows = rows_of(tmp_path / "out" / "sft")
    assert sft_rows[-1]["loss"] < 0.8 * sft_rows[0]["loss"]
    config = read_json(out / "model" / "adapter_config.json")
    assert config["base_model_name_or_path"] == "out/sft/model" and config["target_modules"] == ["q_proj", "v_proj"]
    sft_config = read_json(tmp_path / "out" / "sft" / "model" / "adapter_config.json")
    assert (sft_config["lora_dropout"], config["lora_dropout"]) == (0.1, 0.0)
    assert not list((tmp_path / "out" / "sft").rglob("model.safetensors"))
    monkeypatch.chdir(tmp_path / "out")  # a stage of external/ runs in another folder
    policy, metrics = load_policy(out / "model").eval(), read_json(out / "metrics.json")
    evaluated = metrics["eval_logps/chosen"]
    assert mean_logp(policy, token_pairs(27)[22:], "chosen_ids") == pytest.approx(evaluated, abs=1e-4)
    with merged_policy(out / "model") as folder:  # as it is pushed
        assert not (folder / "adapter_config.json").exists()
        plain = AutoModelForCausalLM.from_pretrained(folder).eval()
        AutoTokenizer.from_pretrained(folder)
    assert mean_logp(plain, token_pairs(27)[22:], "chosen_ids") == pytest.approx(evaluated, abs=1e-4)
    assert not folder.exists()
    generation = tmp_path / "out" / "base" / "model" / "generation_config.json"
    generation.write_text(generation.read_text() + "\n")
    with pytest.raises(UserError, match=r"sft/model is an adapter on out/base/model as it was \(sha256 .* changed"):
        load_policy(out / "model")
    shutil.rmtree(tmp_path / "out" / "base")
    with pytest.raises(UserError, match="is an adapter on out/base/model, which does not exist; `dvc repro` makes it"):
        load_policy(out / "model")


def test_what_makes_no_sense_is_refused(sft_folder, monkeypatch, tmp_path):
    for change, sentence in (
        ({"r": 0}, "greater than or equal to 1"),
        ({"lora_dropout": 1.0}, "less than 1"),
        ({"target_modules": []}, "all-linear, or a list of names"),
        ({"target_modules": "all"}, "all-linear"),
        ({"quantise": "int8"}, "nf4"),
    ):
        with pytest.raises(ValidationError, match=sentence):
            lora(**change)
    with pytest.raises(ValidationError, match=r"lora.lora_dropout must be 0.0 in align"):
        config(lora=lora(lora_dropout=0.1))
    folder = sft_folder()
    names = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    for unknown in ("query", "lm_head", "embed_tokens"):
        sentence = f"Gemma2ForCausalLM has no {unknown} that can be adapted; choose among {names}, or write all-linear"
        with pytest.raises(UserError, match=re.escape(sentence)):
            start_from(folder, lora(target_modules=["q_proj", unknown]), seed=0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    mixture = MixtralForCausalLM(MixtralConfig(vocab_size=64, intermediate_size=16, num_local_experts=4, **sizes))
    mixture.save_pretrained(tmp_path)
    sentence = (
        "all-linear leaves out the experts of MixtralForCausalLM, 49% of its weights; write which of k_proj, o_proj"
    )
    with pytest.raises(UserError, match=sentence):
        start_from(tmp_path, lora(), seed=0)
    start_from(tmp_path, lora(target_modules=["q_proj"]), seed=0)
    with (
        monkeypatch.context() as shared_out,
        pytest.raises(UserError, match=r"cannot shard \(FSDP\); take launchers/ddp"),
    ):
        shared_out.setattr(adapters, "asked_for", lambda: True)
        start_from(folder, lora(quantise="nf4"), seed=0)
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="nf4 needs bitsandbytes, which is not installed"):
        start_from(folder, lora(quantise="nf4"), seed=0)


def test_an_adapter_below_is_merged_in_the_trainings_own_folder_before_it_is_quantised(
    sft_folder, monkeypatch, tmp_path
):
    """Where a killed training's copy, the whole model in float32, goes with the rest; the system's may be memory."""

    class Merges(Exception):
        pass

    def merged(folder, scratch):
        raise Merges(folder, scratch)

    folder, scratch = sft_folder(), tmp_path / "scratch"
    start_from(folder, lora(), seed=0)  # peft asks once for all whether there is a bitsandbytes, which is feigned now
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", types.SimpleNamespace(Linear4bit=None))
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(adapters, "BitsAndBytesConfig", lambda **settings: settings)
    monkeypatch.setattr(adapters, "merged_policy", merged)
    with pytest.raises(Merges) as found:
        start(method_of("x", DPO), config(lora=lora(quantise="nf4")), 5, folder, scratch, 4)
    assert found.value.args == (folder, scratch)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_qlora(both_stages, tmp_path, token_pairs):
    """The frozen weights are 4 bits in both stages, the tie is exact, and the policy is the adapter on what was not
    quantised, near the one that was trained."""
    quantised = lora(quantise="nf4")
    out = both_stages(quantised, quantised)
    model = start_from(tmp_path / "out" / "sft" / "model", quantised, seed=0)
    assert model.model.layers[0].mlp.up_proj.base_layer.weight.dtype == torch.uint8
    assert {weight.dtype for weight in adapter_weights(model, ADAPTER)} == {torch.float32}
    rows, sft_rows = rows_of(out), rows_of(tmp_path / "out" / "sft")
    assert sft_rows[-1]["loss"] < 0.8 * sft_rows[0]["loss"] and rows[-1]["loss"] < rows[0]["loss"]
    assert rows[0]["eps/kept"] == 1.0 and rows[0]["loss"] == pytest.approx(LOG_TWO, rel=1e-7)
    full = content(tmp_path / "out")
    assert content(both_stages(quantised, quantised).parent) == full  # both resume from their last checkpoint
    policy, metrics = load_policy(out / "model").eval(), read_json(out / "metrics.json")
    evaluated = metrics["eval_logps/chosen"]
    assert mean_logp(policy, token_pairs(27)[22:], "chosen_ids") == pytest.approx(evaluated, rel=0.1)
