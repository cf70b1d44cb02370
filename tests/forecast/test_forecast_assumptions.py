"""What a forecast is made from: whose lengths, which type products are in, how many policies and texts there are."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from forecast_sizes import SIZES
from transformers import AutoConfig, BloomConfig, DebertaV2Config, LlamaConfig, PreTrainedConfig, PreTrainedModel

from epsilon_dpo.check.params_file import ParamsFile, load_file
from epsilon_dpo.cli import main
from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.forecast import judges
from epsilon_dpo.forecast.architecture import Sizes, model_of, sizes_of
from epsilon_dpo.forecast.flops import flops
from epsilon_dpo.forecast.forecast import needs_of, pairs_are_made_from
from epsilon_dpo.forecast.inference import PASS, of_candidates, of_kl, of_monotonicity, of_sample
from epsilon_dpo.forecast.lengths import Form, Lengths
from epsilon_dpo.forecast.live import ACTIVATIONS, LiveBytes, without_memory
from epsilon_dpo.forecast.machine import Machine
from epsilon_dpo.forecast.memory import Memory, unsharded
from epsilon_dpo.forecast.needs import Disk, Needs, hours
from epsilon_dpo.forecast.simulation import (
    How,
    References,
    Rows,
    Scored,
    alignment_step,
    body_pass,
    passes,
    reading,
    sft_step,
)
from epsilon_dpo.forecast.table import table
from epsilon_dpo.forecast.trainings import Given, given, merged_copy, of_align, of_sft, policies_of
from epsilon_dpo.judging.judges import pairrm_forward
from epsilon_dpo.judging.judges.pairrm import PairRM
from epsilon_dpo.judging.making.params import RewardModelJudge, TrainedJudge
from epsilon_dpo.judging.making.small_pairrm import small_config, small_tokenizer
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.models.base.params import PretrainedModel
from epsilon_dpo.models.policy.folder import merged_policy, save_policy
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl
from epsilon_dpo.training.loop.adapters import start_from
from epsilon_dpo.training.loop.params import LoRA

ROOT = Path(__file__).resolve().parents[2]
LINEAR = {f"linear_{kind}": size for kind, size in (("key_head_dim", 8), ("value_head_dim", 8))}
LINEAR |= {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
NO_MASK_OF_PAIRS = {
    "lfm2": AutoConfig.for_model("lfm2", **SIZES, layer_types=["conv", "full_attention"]),
    "qwen 3.5": AutoConfig.for_model(
        "qwen3_5_text", **SIZES, **LINEAR, layer_types=["linear_attention", "full_attention"]
    ),
    "bloom": BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2),
}
ADAPTER = LoRA(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=["q_proj"], quantise=None)
ALL_TOKENS = 100_000  # in one chunk: the others would be as it is
EVALUATION = Lengths([(4, 9, 3), (6, 5, 5)], 2, measured=True)


def default(**blocks: dict) -> ParamsFile:
    return with_blocks(load_file(ROOT / "params.yaml"), **blocks)


def with_blocks(params: ParamsFile, **blocks: dict) -> ParamsFile:
    changed = {name: getattr(params, name).model_copy(update=values) for name, values in blocks.items()}
    return params.model_copy(update=changed)


def given_llama(params: ParamsFile, machine: Machine | None = None) -> Given:
    return given(params, LlamaConfig(**SIZES), machine or Machine(), EVALUATION)


def in_bfloat16(params: ParamsFile) -> ParamsFile:
    base = PretrainedModel.model_construct(source="pretrained", dtype="bfloat16")
    return params.model_copy(update={"base": base})


def aligned(**align: object) -> Needs:
    """Of stage align with run dpo alone."""
    params = default(align=align)
    (needs,) = of_align(given_llama(params.model_copy(update={"runs": {"dpo": params.runs["dpo"]}})))
    return needs


def how(lora: LoRA | None = None) -> How:
    return How(torch.float32, False, False, lora, False, "cuda")


def sizes(config: PreTrainedConfig) -> Sizes:
    with without_memory():
        return sizes_of(model_of(config, torch.float32))


@pytest.mark.slow
def test_pairs_of_another_file_are_left_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The project has short pairs; what is asked about is another file, another model, or another number of pairs."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    shutil.copy(ROOT / "params.yaml", "other.yaml")
    Path("out/pairs").mkdir(parents=True)
    for split in ("train", "eval"):
        ids = {"prompt_ids": [1] * 6, "chosen_ids": [1] * 4, "rejected_ids": [1] * 2}
        write_jsonl(Path(f"out/pairs/{split}.jsonl"), [ids] * 100)
    write_json(Path("config.json"), {"model_type": "llama", **SIZES})

    def said(*options: str) -> str:
        main(["forecast", *options])
        return capsys.readouterr().out

    assert "Lengths and the number of pairs are those of out/pairs." in said("--params", str(tmp_path / "params.yaml"))
    aside = (
        "pairs, each as long as tokens.max_length allows: memory, FLOPs and hours are upper bounds; out/pairs is not of"
    )
    assert f"3,000 {aside}" in said("--params", "other.yaml")
    assert f"3,000 {aside}" in said("--model-config", "config.json")
    assert f"7 {aside}" in said("--pairs", "7")


@pytest.mark.parametrize("config", NO_MASK_OF_PAIRS.values(), ids=NO_MASK_OF_PAIRS)
def test_models_that_take_no_pair_as_one_row(config: PreTrainedConfig) -> None:
    rows = Rows(3, 20, 24)
    assert alignment_step(config, how(), rows, Scored(References(0), 512)).peak[ACTIVATIONS] > 0
    assert sft_step(config, how(), rows).peak[ACTIVATIONS] > 0
    assert passes(config, torch.float32, rows, 512, "cpu").peak[ACTIVATIONS] > 0
    with pytest.raises(UserError, match=r"align\.share_prompt: true is not possible for \w+ \(.*\); set it to false"):
        alignment_step(config, how(), rows._replace(shared=True), Scored(References(0), 512))


def test_align_is_simulated_as_share_prompt_says() -> None:
    """Bloom, in two rows a pair."""
    bloom = NO_MASK_OF_PAIRS["bloom"]
    for share_prompt in (False, True):
        of = given(default(align={"share_prompt": share_prompt}), bloom, Machine(), EVALUATION)
        if share_prompt:
            with pytest.raises(UserError, match="share_prompt"):
                of_align(of)
        else:
            assert len(of_align(of)) == 2


def test_widths_that_differ_by_layer() -> None:
    """Gemma 4: full layers have wider heads, and the last two take their keys from those before them."""
    layers = ["sliding_attention", "full_attention"] * 2
    own = {"num_hidden_layers": 4, "layer_types": layers, "global_head_dim": 32, "num_kv_shared_layers": 2}
    per_layer = {"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8}
    found = sizes(AutoConfig.for_model("gemma4_text", **{**SIZES, **own, **per_layer}))
    assert found.attention == (2 * 16 + 2 * 32) * 2 / 4 and found.keys == (16 + 32) / 4
    hybrid = sizes(NO_MASK_OF_PAIRS["lfm2"])
    assert (hybrid.attention, hybrid.keys) == (32 / 2, 16 / 2)  # one of two layers has attention
    fused = sizes(NO_MASK_OF_PAIRS["bloom"])
    assert (fused.attention, fused.keys) == (32, 32)


def test_a_merged_adapter_is_sampled_from_in_float32() -> None:
    plain, merged = (
        of_sample(given_llama(in_bfloat16(default(align={"lora": lora}))), EVALUATION).memory
        for lora in (None, ADAPTER)
    )
    assert plain is not None and merged is not None
    assert merged.weights == 2 * plain.weights == 4 * sizes(LlamaConfig(**SIZES)).parameters


def test_sampling_reads_prompts_beside_the_answers_that_go_on() -> None:
    """Of 8 rows at once."""
    of = given_llama(default(sample={"batch_size": 8}))
    memory = of_sample(of, Lengths([(100, 5, 5)], 1, measured=True)).memory
    cache = 2 * 2 * 16 * 4 * 8 * (100 + 64)
    read = reading(LlamaConfig(**SIZES), torch.float32, Rows(8, 100, 1)).peak[ACTIVATIONS]
    assert memory is not None and memory.activations == cache + read > 2 * cache


def test_a_given_peak_counts_for_bf16() -> None:
    """312 TFLOP/s of an A100, which has 19.5 in float32."""
    a100 = Machine(peak=312e12, mfu=1.0)
    assert a100.speed(True) == 312e12 and 19e12 < a100.speed(False) < 22e12
    assert Machine(gpus=0, peak=1e12, mfu=1.0).speed(False) == 1e12
    of = given_llama(default(), a100)
    said = table(of, [Needs("kl", [], None, 1, None, None)])
    assert "of the given peak (312 TFLOP/s in bf16, 21.1 in float32)" in said


def test_weights_in_bfloat16_are_computed_with_in_bfloat16() -> None:
    of = given_llama(in_bfloat16(default()))
    for needs in (of_sft(of), *of_align(of)):
        assert needs is not None and needs.hours == hours(needs.flops, of.machine, True)
    in_float32 = given_llama(default())
    sft = of_sft(in_float32)
    assert sft is not None and sft.hours == hours(sft.flops, of.machine, False)


@pytest.mark.parametrize(
    "align",
    [{"bf16": True}, {"lora": ADAPTER.model_copy(update={"quantise": "nf4"})}],
    ids=["autocast", "weights in 4 bits"],
)
def test_float32_weights_may_be_computed_with_in_bfloat16(align: dict) -> None:
    """Fifteen times as fast on an H100."""
    needs = aligned(**align)
    assert needs.flops is not None and needs.hours == pytest.approx(needs.flops / (0.35 * 989e12) / 3600)


def test_a_training_of_so_many_steps_reads_as_many_batches() -> None:
    """Of 8 pairs, in micro-batches of 2: 5 steps are 40 pairs, and an epoch of those that there are is 2."""
    epoch, steps = (aligned(batch_size=8, micro_batch_size=2, max_steps=most).flops for most in (None, 5))
    assert epoch is not None and steps == pytest.approx(20 * epoch)


def test_gpus_share_the_work_of_a_training_and_not_that_of_stage_kl() -> None:
    """What takes eight hours on one, at half of its peak of 1 TFLOP/s."""
    one, eight = (given_llama(default(), Machine(gpus=gpus, peak=1e12, mfu=0.5)) for gpus in (1, 8))
    work = 8 * 3600 * 0.5e12
    assert (hours(work, one.machine, True), hours(work, eight.machine, True)) == (8.0, 1.0)
    assert hours(work, eight.machine, True, processes=1) == 8.0
    alone, shared = of_sft(one), of_sft(eight)
    assert alone is not None and alone.hours is not None and shared is not None
    assert shared.flops == alone.flops and shared.hours == pytest.approx(alone.hours / 8)
    assert of_kl(eight, EVALUATION).hours == of_kl(one, EVALUATION).hours


@pytest.mark.parametrize(
    ("lora", "weights", "trained", "reference"),
    [(None, 2 * 22_688, 2 * 22_688, 2 * 22_688), (ADAPTER, 2 * 22_688 + 4 * 256, 4 * 256, 0)],
    ids=["all weights", "an adapter"],
)
def test_each_of_four_gpus_holds_a_quarter(lora: LoRA | None, weights: int, trained: int, reference: int) -> None:
    """Bytes of 22,688 parameters in bfloat16; an adapter of 256 is in float32, and its base, which is not trained, is
    the reference, too."""
    of = given_llama(in_bfloat16(default(align={"lora": lora})), Machine(gpus=4))
    needs = of_align(of)[0]
    memory = needs.memory
    assert memory is not None and needs.flops is not None
    assert (memory.weights, memory.reference) == (weights / 4, reference / 4)
    assert (memory.gradients, memory.optimizer) == (trained / 4, 2 * trained / 4)
    assert needs.hours == pytest.approx(needs.flops / (4 * 0.35 * 989e12) / 3600)


@pytest.mark.parametrize(("gpus", "shard", "buckets"), [(1, "none", 0), (2, "none", 4 * 256), (2, "fsdp", 4 * 256)])
def test_an_adapter_on_weights_in_4_bits(gpus: int, shard: Literal["fsdp", "none"], buckets: int) -> None:
    """18,432 weights of projections in 4 bits, 8 more for each 64 and 32 for each 64 x 256; the 4,256 others and the
    adapter's 256 in float32. One projection of 32 x 64 at a time is in bfloat16, whatever autocast would keep; several
    GPUs hold all of it each, and the buckets of DDP."""
    lora = ADAPTER.model_copy(update={"quantise": "nf4"})
    of = given_llama(default(align={"lora": lora, "bf16": True}), Machine(gpus=gpus, shard=shard))
    memory = of_align(of)[0].memory
    assert memory is not None
    nf4 = 18_432 * (4 + 0.125 + 0.001953125) / 8
    assert memory.weights == pytest.approx(nf4 + 4 * (4_256 + 256), abs=200)  # rotary frequencies
    assert memory.other == 2 * 32 * 64 + buckets and memory.optimizer == 8 * 256


@pytest.mark.parametrize(("lora", "trained"), [(None, 22_688), (ADAPTER, 256)], ids=["all weights", "an adapter"])
def test_disk_of_policies_and_of_checkpoints(lora: LoRA | None, trained: int) -> None:
    """In float32. Two runs keep a policy and, of three epochs, one of them two snapshots; each of three checkpoints has
    a policy and AdamW's two values a parameter. A third run has a reference that moves, which checkpoints hold."""
    params = default(align={"num_train_epochs": 3.0, "lora": lora})
    dpo = params.runs["dpo"]
    runs = {"kept": {**dpo, "snapshot_epochs": 1.0}, "last": dpo, "moves": params.runs["tr_dpo"]}
    fixed, moving = of_align(given_llama(params.model_copy(update={"runs": runs})))
    assert (fixed.runs, moving.runs) == (["kept", "last"], ["moves"])
    assert fixed.disk == Disk(out=4 * 4 * trained, scratch=3 * (4 + 8) * trained)
    assert moving.disk == Disk(out=4 * trained, scratch=3 * (4 + 8 + 4) * trained)


def test_disk_of_an_adapter_that_is_merged_for_another_program() -> None:
    """22,688 parameters in float32, beside checkpoints of 256: for QLoRA on an SFT adapter one copy a process, for vLLM
    one at a time. Of a full model there is none, nor where the adapter is merged in memory."""
    qlora = ADAPTER.model_copy(update={"quantise": "nf4"})
    copy, checkpoints = 4 * 22_688, 3 * (4 + 8) * 256

    def align(sft: LoRA | None, lora: LoRA, gpus: int) -> float:
        machine = Machine(gpus=gpus, shard="none")
        return of_align(given_llama(default(sft={"lora": sft}, align={"lora": lora}), machine))[0].disk.scratch

    assert align(ADAPTER, qlora, gpus=1) == align(qlora, qlora, gpus=0) == checkpoints + copy
    assert align(ADAPTER, qlora, gpus=2) == checkpoints + 2 * copy
    assert align(None, qlora, gpus=1) == align(ADAPTER, ADAPTER, gpus=1) == checkpoints

    def drawn(sft: LoRA | None, lora: LoRA | None, backend: str) -> tuple[float, float]:
        params = default(sft={"lora": sft}, align={"lora": lora}, sample={"backend": backend})
        settings = load_file(ROOT / "presets/on-policy.yaml").candidates
        assert settings is not None
        params = params.model_copy(update={"candidates": settings.model_copy(update={"backend": backend})})
        of = given_llama(params, Machine(gpus=2))
        candidates = of_candidates(of)
        assert candidates is not None
        return candidates.disk.scratch, of_sample(of, EVALUATION).disk.scratch

    assert drawn(ADAPTER, None, "vllm") == (copy, copy) and drawn(None, ADAPTER, "vllm") == (0, copy)
    assert drawn(None, None, "vllm") == drawn(ADAPTER, ADAPTER, "transformers") == (0, 0)


def test_a_merged_copy_has_the_size_that_is_forecast(
    sft_folder: Callable[..., Path], tiny_gemma: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    """Of weights in bfloat16 too; safetensors' head names each."""
    folder, adapter = sft_folder(torch.bfloat16), tmp_path / "adapter"
    save_policy(start_from(folder, ADAPTER, seed=0), load_tokenizer(folder), adapter)
    forecast = merged_copy(given(default(), tiny_gemma().config, Machine(), EVALUATION))
    with merged_policy(adapter, tmp_path / "scratch") as merged:
        size = (merged / "model.safetensors").stat().st_size
    assert forecast < size < forecast + 10_000


def test_policies_and_texts_of_kl() -> None:
    """A run of three epochs with two snapshots, another without; 50 pairs, of 10 of which the prompts are answered."""
    params = default(align={"num_train_epochs": 3.0}, sample={"max_prompts": 10, "samples_per_prompt": 2})
    dpo = params.runs["dpo"]
    params = params.model_copy(update={"runs": {"kept": {**dpo, "snapshot_epochs": 1.0}, "last": dpo}})
    of, evaluation = given_llama(params), Lengths([(4, 100, 3)], 50, measured=True)
    kl, sample = of_kl(of, evaluation), of_sample(of, evaluation)
    one = flops(of.sizes, Form(104, 104, 104.0**2, 100, 100), PASS)
    assert kl.flops == pytest.approx(4 * (2 * 20 + 50) * one)
    fewer = of_sample(given_llama(params.model_copy(update={"runs": {"last": dpo}})), evaluation)
    assert sample.flops == pytest.approx(5 / 2 * fewer.flops)  # and the reference
    epoch = math.ceil(of.train.count / params.align.batch_size)
    for steps, kept in ((epoch, 1), (2 * epoch, 2)):  # one of max_steps keeps none after its end
        align = params.align.model_copy(update={"max_steps": steps})
        ended = of_sample(given_llama(params.model_copy(update={"align": align})), evaluation)
        assert ended.flops == pytest.approx((kept + 1 + 1) / 2 * fewer.flops)


@pytest.mark.parametrize(
    ("epochs", "every", "pairs", "kept"),
    [
        (2.1, 0.3, 3200, 6),  # the seventh is the end, although 2.1 / 0.3 is 7.000000000000001
        (1.0, 0.001, 80, 9),  # ten steps, of which the last makes the policy itself
        (1.0, 0.3, None, 3),
    ],
    ids=["at the end", "more than steps", "pairs not known"],
)
def test_snapshots_are_those_that_a_training_keeps(epochs: float, every: float, pairs: int | None, kept: int) -> None:
    params = default(align={"num_train_epochs": epochs, "batch_size": 8, "max_steps": None})
    of = given(params, LlamaConfig(**SIZES), Machine(), Lengths([(4, 9, 3)], pairs, measured=False))
    assert policies_of(of, {"kept": method_of("kept", {**params.runs["dpo"], "snapshot_epochs": every})}) == kept + 1


def test_both_answers_of_a_pair_are_rows_of_monotonicity() -> None:
    """3 pairs at once, of 49 and 43, or 47 and 47 tokens; 50 pairs for each of three runs, on one GPU in float32."""
    of = given_llama(default(monotonicity={"batch_size": 3}), Machine(gpus=8))
    found = of_monotonicity(of, Lengths([(40, 9, 3), (42, 5, 5)], 50, measured=True))
    assert found.memory == unsharded(passes(of.config, torch.float32, Rows(6, 49, 3 * 12), 512, "cuda"))
    form = Form(tokens=(92 + 94) / 2, columns=49, squares=(49**2 + 43**2 + 2 * 47**2) / 2, scored=11, most_scored=12)
    work = 3 * 50 * flops(of.sizes, form, PASS)
    assert found.flops == pytest.approx(work) and found.hours == pytest.approx(work / (0.35 * 67e12) / 3600)


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({}, True),
        ({"candidates": {"samples_per_prompt": 8, "batch_size": 64}}, False),
        ({"candidates": {"samples_per_prompt": 4, "batch_size": 16}}, True),
        ({"tokens": {"max_length": 96}}, False),
        ({"threads": 8}, True),
        ({"align": {"batch_size": 64}}, True),
    ],
    ids=["nothing", "candidates", "candidates at once", "tokens", "threads", "align"],
)
def test_pairs_are_those_of_a_file_whose_values_decide_how_many_there_are_and_how_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict, same: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    made_from = (
        {"candidates": {"samples_per_prompt": 4, "batch_size": 64}, "threads": 1},
        {"tokens": {"max_length": 160}},
    )
    stages = dict(zip(("candidates", "pairs"), made_from, strict=True))
    stages["align@dpo"] = {"align": {"batch_size": 32}}
    write_json(Path("dvc.lock"), {"stages": {name: {"params": {"params.yaml": of}} for name, of in stages.items()}})
    now = {name: value for of in stages.values() for name, value in of.items()} | changed
    write_json(Path("params.yaml"), now)
    assert pairs_are_made_from(Path("params.yaml")) is same


def test_a_dvc_lock_that_is_being_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(Path("params.yaml"), {"tokens": {}})
    for left in ("", "  pairs:\n", "  pairs:\n    params:\n"):
        Path("dvc.lock").write_text(f"stages:\n{left}")
        with pytest.raises(UserError, match=r"^dvc\.lock is cut off: run this again if a dvc is at work"):
            pairs_are_made_from(Path("params.yaml"))


def test_candidates_are_sampled_from_the_reference_and_align_learns_from_their_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 answers to a prompt make 6 pairs at most; SFT learns from the dataset's 1,000, whatever out/pairs holds. A
    quarter of the 512 prompts is held out, each with a pair of 160 tokens a row at most."""
    params = load_file(ROOT / "presets/on-policy.yaml")
    params = with_blocks(params, fetch={"eval_share": 0.25}, align={"logps_token_chunk": ALL_TOKENS})
    params = with_blocks(params, kl={"token_chunk": ALL_TOKENS}, monotonicity={"token_chunk": ALL_TOKENS})
    assert params.candidates is not None
    monkeypatch.chdir(tmp_path)
    of, needs = needs_of(params, Machine(), pairs=1000)
    by_stage = {one.stage: one for one in reversed(needs)}
    assert list(one.stage for one in needs)[:4] == ["base", "sft", "candidates", "align"]
    assert of.train.count == 6 * 1000
    held_out = flops(of.sizes, Form(2 * 160, 160, 2 * 160.0**2, 2 * 159, 2 * 159), PASS)
    assert by_stage["monotonicity"].flops == pytest.approx(3 * 128 * held_out)
    longer = params.candidates.model_copy(update={"batch_size": 2 * params.candidates.batch_size, "max_prompts": 500})
    _, more = needs_of(params.model_copy(update={"candidates": longer}), Machine(), pairs=1000)
    changed = {one.stage: one for one in reversed(more)}
    one, other = by_stage["candidates"], changed["candidates"]
    assert one.memory is not None and other.memory is not None and one.flops is not None
    assert other.memory.total > 1.5 * one.memory.total and other.flops == pytest.approx(one.flops / 2)
    assert changed["sft"] == by_stage["sft"] and changed["sample"] == by_stage["sample"]
    assert by_stage["align"].flops is not None
    assert changed["align"].flops == pytest.approx(by_stage["align"].flops / 2), "of the 500 prompts' answers"

    (tmp_path / "out/pairs").mkdir(parents=True)
    for split in ("train", "eval"):
        write_jsonl(
            tmp_path / f"out/pairs/{split}.jsonl", [{"prompt_ids": [1], "chosen_ids": [1], "rejected_ids": [1]}]
        )
    of, made = needs_of(params, Machine(), pairs=1000, own=True)
    assert of.train.count == 1 and {one.stage: one for one in made}["sft"] == by_stage["sft"]
    assert "dataset's, of sft and candidates" in table(of, made)


def test_no_candidates_are_no_line() -> None:
    assert of_candidates(given_llama(default())) is None


def test_a_chosen_answer_may_be_longer_than_a_drawn_one() -> None:
    """Before pairs are made: tokens.max_length 160, prompts of up to 64, and 64 new tokens."""
    of, evaluation = given_llama(default()), Lengths([(1, 159, 159)], 50, measured=False)
    expected = unsharded(passes(of.config, torch.float32, Rows(32, 160, 32 * 159), 512, "cuda"))
    assert of_kl(of, evaluation).memory == expected


def test_no_batch_size_helps_where_the_weights_do_not_fit() -> None:
    of = given_llama(default())
    kl = of_kl(of, EVALUATION)
    assert kl.memory is not None
    weights, total = (kl.memory.weights + kl.memory.reference), kl.memory.total

    def said(memory: float) -> str:
        return table(replace(of, machine=replace(of.machine, memory=memory)), [kl]).splitlines()[-1]

    assert said((weights + total) / 2 / 0.9).endswith("; lower kl.batch_size.")
    assert said(weights / 2).endswith("; no kl.batch_size changes that, take a larger GPU for this stage.")
    score = replace(kl, stage="score")
    machine = replace(of.machine, memory=total)
    assert table(replace(of, machine=machine), [score]).endswith("; lower judge.micro_batch_size.")


def test_what_needs_most_decides_whether_all_fits() -> None:
    """Wherever its line stands; a tenth of a GPU is left free."""
    of = given_llama(default())
    rest = dict.fromkeys(("gradients", "optimizer", "reference", "activations", "head", "other"), 0.0)
    kl, sample = (
        Needs(stage, [], Memory(weights=size, **rest), 1, None, None) for stage, size in (("kl", 5e9), ("sample", 37e9))
    )
    for needs in ([kl, sample], [sample, kl]):
        for size, said in ((40, "It does not fit"), (50, "It fits")):
            machine = replace(of.machine, memory=size * 1e9)
            last = table(replace(of, machine=machine), needs).splitlines()[-1]
            assert last.startswith(f"{said}: sample needs 37 GB of {size} GB per GPU, a tenth of which is left free")


def test_a_moving_reference_beside_an_adapter() -> None:
    """A second adapter in memory, and a pass of the start beside the follower's."""
    fixed, moving = (
        unsharded(
            alignment_step(
                LlamaConfig(**SIZES), how(ADAPTER), Rows(3, 20, 36), Scored(References(count, separate=False), 512)
            )
        )
        for count in (1, 2)
    )
    assert moving.reference - fixed.reference == 4 * 2 * 2 * (32 + 32)  # two layers, rank 2
    both = of_align(given_llama(default(align={"lora": ADAPTER})))
    assert [needs.runs for needs in both] == [["dpo", "epsilon_dpo"], ["tr_dpo"]]
    dpo, tr_dpo = both[0].flops / 2, both[1].flops
    of = given_llama(default())
    form = Form(16, 16, (16**2 + 16**2) / 2, 11, 12)
    passed = flops(of.sizes, form, PASS._replace(projections=1, attention=1, head=2))
    assert tr_dpo - dpo == pytest.approx(2 * passed)  # of two pairs


def test_an_adapter_of_modules_that_are_not_there() -> None:
    lora = ADAPTER.model_copy(update={"target_modules": ["query_key_value"]})
    with pytest.raises(UserError, match=r"lora\.target_modules: LlamaForCausalLM has no query_key_value"):
        alignment_step(LlamaConfig(**SIZES), how(lora), Rows(3, 20, 36), Scored(References(1, separate=False), 512))


def test_a_config_that_does_not_exist() -> None:
    with pytest.raises(SystemExit, match=r"nosuch\.json does not exist; --model-config takes the config\.json of a"):
        main(["forecast", "--params", str(ROOT / "params.yaml"), "--model-config", "nosuch.json"])


def test_an_error_names_the_file_that_was_given(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    text = (ROOT / "params.yaml").read_text("utf-8")
    for old, new in (
        ("seed: 17", "sead: 17"),
        ("method: dpo,", "method: dpoo,"),
        ("{method: dpo, beta:", "{method: dpo, betta:"),
    ):
        file.write_text(text.replace(old, new), "utf-8")
        with pytest.raises(UserError) as refused:
            load_file(file)
        assert str(refused.value).startswith(f"{file}: ") and " params.yaml" not in str(refused.value)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_small_pairrm_is_the_one_that_stage_judge_makes(dropout: float) -> None:
    """Of training texts that fill its vocabulary; the markers' ids, which need the tokenizer, change no shape."""
    judge = default(judge={"vocab_size": 40, "dropout": dropout}).judge
    tokenizer = small_tokenizer(["the whale ate the cod that ate the whelk by the wharf, while the whale waited"], 40)
    forecast, made = judges._config(judge)[0].to_dict(), small_config(judge, tokenizer).to_dict()
    ids = {"source_prefix_id", "cand1_prefix_id", "cand2_prefix_id", "cand_prefix_id"}
    assert {name for name in made | forecast if made.get(name) != forecast.get(name)} == ids
    assert made["hidden_dropout_prob"] == made["attention_probs_dropout_prob"] == dropout


def test_disk_of_a_judge_and_of_its_checkpoints() -> None:
    """Three of them, each with the weights and AdamW's two values of each; of the judge a copy that teaches."""
    training = judges.of_judge(given_llama(default()))[0]
    assert training.stage == "judge" and training.memory is not None and training.memory.weights > 0
    assert training.memory.optimizer == training.disk.out
    assert 2 * training.disk.scratch == 3 * 3 * training.disk.out


def test_a_teacher_needs_what_the_same_judge_does_and_says_which_block_is_its() -> None:
    judge = default().judge
    params = default().model_copy(update={"judge": default(judge={"hidden_size": 128}).judge, "teacher": judge})
    of = given_llama(params)
    made, asked = judges.of_judge(of, "teacher")
    assert [made, asked] == [
        replace(one, stage=stage, runs=[], disk=replace(one.disk, out=one.disk.out / 2))
        for one, stage in zip(
            judges.of_judge(given_llama(default())),
            ("judge, the teacher", "ranking, margins or online runs"),
            strict=True,
        )
    ]
    assert asked.memory is not None
    machine = replace(of.machine, memory=asked.memory.total)
    assert table(replace(of, machine=machine), [asked]).endswith("; lower teacher.micro_batch_size.")


@pytest.mark.parametrize(("device", "pairs"), [("cuda", 3), ("cpu", 1)])
def test_a_pairrm_judges_both_orders_at_once_in_its_own_form(device: str, pairs: int) -> None:
    """Against what lives in a real forward pass; on a CPU a batch holds fewer of such long pairs."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64}
    settings = {"source_max_length": 300, "candidate_max_length": 150, "micro_batch_size": 3, "vocab_size": 100}
    params = default(judge=settings | sizes)
    judge = params.judge
    assert isinstance(judge, TrainedJudge)
    score = judges.of_judge(given_llama(params, Machine(gpus=int(device == "cuda"))))[-1]
    model = PairRM(judges._config(judge)[0], (4, 5, 6)).eval()
    ids = torch.full((2 * pairs, 600), 9)
    ids[:, 0], ids[:, 300], ids[:, 450] = 4, 5, 6
    with LiveBytes() as live:
        live.label = ACTIVATIONS
        pairrm_forward.forward(model, ids, torch.ones_like(ids))
    assert score.memory is not None and score.memory.activations == pytest.approx(live.peak[ACTIVATIONS], rel=0.1)


def test_vllm_is_one_process_whatever_the_launcher_has() -> None:
    params = load_file(ROOT / "presets/ultrafeedback-llama-3-8b-on-policy.yaml")
    of = given_llama(params, Machine(gpus=8))
    assert [one.gpus for one in (of_candidates(of), of_sample(of, EVALUATION)) if one] == [1, 1]
    assert of_sample(given_llama(default(), Machine(gpus=8)), EVALUATION).gpus == 8


@pytest.mark.parametrize("shared", [{"share_att_key": True}, {}], ids=["version 3", "version 2"])
def test_a_reward_model_on_deberta_is_counted_as_transformers_computes_it(tmp_path: Path, shared: dict) -> None:
    """It is judged by its own forward pass, and a version 2 says nothing of share_att_key."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64}
    attention = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 256}
    config = DebertaV2Config(**sizes, **attention, **shared, vocab_size=100, max_relative_positions=-1)
    config.save_pretrained(tmp_path)
    settings = {"source": "reward_model", "path": str(tmp_path), "revision": None, "dtype": "float32"}
    judge = RewardModelJudge(**settings, max_length=128, batch_size=2)
    _, score = judges.of_judge(given_llama(default().model_copy(update={"judge": judge})))
    with without_memory() as live:
        model = judges._model(config, torch.float32).eval()
        live.label = ACTIVATIONS
        simulated = unsharded(body_pass(model, live, Rows(2, 128, 1)))
    assert score.memory == simulated
