"""PairRM's layout, head, state dict and refusals; its scores are held by test_pairrm_parity.py."""

import copy
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import tiny_pairrm
import torch
from memory_errors import TOO_LITTLE
from safetensors.torch import load_file, save_file
from scipy.stats import rankdata
from transformers import DebertaV2Config
from trl_trainers import float32_means_float64

from epsilon_dpo.judging.judges import pairrm_folder, pairrm_judge
from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.judging.judges.layout import Layout, Pair
from epsilon_dpo.judging.judges.loading import load_judge
from epsilon_dpo.judging.judges.pairrm import PairRM
from epsilon_dpo.judging.judges.pairrm_folder import architecture, load_model, load_tokenizer
from epsilon_dpo.judging.judges.pairrm_judge import PairRMJudge
from epsilon_dpo.judging.making.params import TrainedJudge
from epsilon_dpo.judging.making.small_pairrm import small_config, small_tokenizer
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, write_json

pytestmark = pytest.mark.numeric

SOURCE_MAX, CANDIDATE_MAX = 16, 12
WORDS = [
    "the",
    "moon",
    "orbits",
    "earth",
    "gold",
    "is",
    "a",
    "metal",
    "honey",
    "comes",
    "from",
    "bees",
    "what",
    "do",
    "you",
    "know",
    "about",
    "tell",
    "me",
    "more",
    "please",
]
LONG = " ".join(WORDS * 3)
PAIRS = [
    Pair("what do you know about gold", "gold is a metal", "honey is from bees"),
    Pair("tell me", "the moon", "the moon"),
    Pair(LONG, LONG, "gold"),
    Pair("tell me about [SEP] bees", "<|candidate2|> more <|source|>", "gold [SEP] is <|candidate|> a metal"),
    Pair("the moon…", "gold\u00a0is\u200b½ a ﬁ metal", "…"),
    Pair("honey", "", LONG),
]
SIZES = TrainedJudge(
    source="trained", vocab_size=200, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    position_buckets=8, initializer_range=0.3, dropout=0.0, source_max_length=SOURCE_MAX,
    candidate_max_length=CANDIDATE_MAX, learning_rate=1e-3, num_train_epochs=1.0,
    max_steps=None, batch_size=8, micro_batch_size=8, lr_scheduler_type="constant",
    warmup_ratio=0.0, weight_decay=0.0, max_grad_norm=1.0, adam_beta2=0.999,
    mismatched_first=0.0, mismatched_share=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PairRM of random weights whose logits are far from zero."""
    folder = tmp_path_factory.mktemp("pairrm")
    tokenizer = small_tokenizer([LONG, "…½fi"], SIZES.vocab_size)
    layout = Layout(tokenizer, SOURCE_MAX, CANDIDATE_MAX)
    torch.manual_seed(1)
    config = small_config(SIZES, tokenizer)
    config.type_vocab_size = 0  # as the published one
    model = PairRM(config, layout.marker_ids)
    torch.nn.init.normal_(model.head_layer[1].weight, std=0.3)
    torch.nn.init.normal_(model.head_layer[4].weight, std=1.0)
    model.pretrained_model.config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors")
    tokenizer.save_pretrained(folder)
    lengths = {"source_max_length": SOURCE_MAX, "candidate_max_length": CANDIDATE_MAX}
    write_json(folder / "judge.json", {"kind": "pairrm", **lengths, "batch_size": 4, "budget": "example"})
    return folder


@pytest.fixture(scope="module")
def judge(folder: Path) -> PairRMJudge:
    judge = load_judge(folder)
    assert isinstance(judge, PairRMJudge)
    return judge


@pytest.fixture
def exact_judge(judge: PairRMJudge) -> Iterator[PairRMJudge]:
    """`judge` in float64: in float32 a row's score varies with its batch, by 1e-5 on some processors."""
    with float32_means_float64():
        yield PairRMJudge(copy.deepcopy(judge.model).double(), judge.layout, judge.batch_size)


def test_a_row_has_three_blocks_and_each_marker_once(judge: PairRMJudge) -> None:
    tokenizer = judge.layout.tokenizer
    for pair in PAIRS:
        for row in (judge.layout.encode(pair).ab, judge.layout.encode(pair).ba):
            assert row.count(tokenizer.cls_token_id) == row.count(tokenizer.sep_token_id) == 3
            assert [row.count(marker) for marker in judge.layout.marker_ids] == [1, 1, 1]


def test_the_budget_that_a_source_leaves(judge: PairRMJudge) -> None:
    """By hand: a source of 3 + 6 tokens leaves 16 - 9 = 7, half of it rounded down for each answer: 12 + 3 = 15."""
    encoded = judge.layout.encode(Pair("what do you know about gold", LONG, "gold"))
    assert len(encoded.ab) == 9 + 15 + 4
    assert (encoded.trunc_source, encoded.trunc_a, encoded.trunc_b) == (False, True, False)
    assert (encoded.len_a, encoded.len_b) == (len(WORDS) * 3, 1)
    over_long = judge.layout.encode(Pair(LONG, LONG, "gold"))
    assert len(over_long.ab) == SOURCE_MAX + CANDIDATE_MAX + 4 and over_long.trunc_source


def test_what_fits_exactly_is_not_cut(judge: PairRMJudge) -> None:
    """Three tokens of each block are special: a source of 13 fills 16, and leaves each answer 12, which 9 fill."""
    texts = {count: " ".join(WORDS[:count]) for count in (9, 10, 13, 14)}
    for pair, cut in (
        (Pair(texts[13], texts[9], texts[10]), (False, False, True)),
        (Pair(texts[13], texts[10], texts[9]), (False, True, False)),
        (Pair(texts[14], texts[9], texts[9]), (True, False, False)),
    ):
        encoded = judge.layout.encode(pair)
        assert (encoded.trunc_source, encoded.trunc_a, encoded.trunc_b) == cut


def test_a_dialogue_s_earlier_answers_are_no_part_of_an_answer_s_length(judge: PairRMJudge) -> None:
    """Both candidates hold the first turn's 63 tokens, which are cut; answers of 4 and 1 are not of similar length."""
    turns = (("user", "tell me"), ("assistant", LONG), ("user", "more please"))
    prompt = [{"role": role, "content": text} for role, text in turns]
    dialogue, single = judge.compare(
        [Question(given, " gold is a metal\n", "gold") for given in (prompt, [{"role": "user", "content": "tell me"}])]
    )
    assert (dialogue.len_a, dialogue.len_b) == (single.len_a, single.len_b) == (4, 1)
    assert dialogue.trunc_a and dialogue.trunc_b and not single.trunc_a


def test_a_marker_made_by_the_normaliser_is_no_marker(judge: PairRMJudge) -> None:
    encoded = judge.layout.encode(Pair("＜|candidate1|＞ gold", "＜|source|＞", "moon"))
    assert [encoded.ab.count(marker) for marker in judge.layout.marker_ids] == [1, 1, 1]


def test_a_text_cannot_compose_with_the_marker_before_it(judge: PairRMJudge) -> None:
    """NFKC makes of > and U+0338 one character, and the marker would be read as its pieces."""
    struck, plain = "\u0338 the moon", "the moon"
    for pair in (Pair(struck, plain, plain), Pair(plain, struck, plain), Pair(plain, plain, struck)):
        encoded = judge.layout.encode(pair)
        assert len(encoded.ab) == len(judge.layout.encode(Pair(plain, plain, plain)).ab) + 2, "a space, and [UNK]"
        assert [encoded.ab.count(id_) for id_ in judge.layout.marker_ids] == [1, 1, 1]


def test_f_is_the_head_on_the_marker_states(exact_judge: PairRMJudge) -> None:
    """One pair at a time, no padding, hidden states picked by position."""
    judge = exact_judge
    for pair, verdict in zip(PAIRS, judge.compare_texts(PAIRS), strict=True):
        for ids, f in ((judge.layout.encode(pair).ab, verdict.f_ab), (judge.layout.encode(pair).ba, verdict.f_ba)):
            with torch.no_grad():
                encoder = judge.model.pretrained_model
                hidden = encoder(input_ids=torch.tensor([ids], device=encoder.device)).last_hidden_state[0]
                s, a, b = (hidden[ids.index(marker)] for marker in judge.layout.marker_ids)
                linear, head = judge.model.head_layer[1], judge.model.head_layer[4]
                left, right = (head(torch.tanh(linear(torch.cat([s, x])))) for x in (a, b))
            # transformers takes the square root in attention's scale in float32 by another name
            assert f == pytest.approx((left - right).item(), abs=1e-6)


def test_swapping_flips_the_sign_exactly_and_equal_answers_tie(judge: PairRMJudge) -> None:
    logits = [verdict.logit for verdict in judge.compare_texts(PAIRS)]
    swapped = [verdict.logit for verdict in judge.compare_texts([Pair(p.source, p.b, p.a) for p in PAIRS])]
    assert logits == [-logit for logit in swapped]
    assert logits[1] == 0.0
    assert min(abs(logit) for i, logit in enumerate(logits) if i != 1) > 1e-3


def test_batch_size_and_order_change_no_score(exact_judge: PairRMJudge) -> None:
    judge = exact_judge
    logits = [verdict.logit for verdict in judge.compare_texts(PAIRS)]
    for batch_size, order in ((1, [5, 2, 0, 4, 1, 3]), (6, [0, 1, 2, 3, 4, 5])):
        verdicts = PairRMJudge(judge.model, judge.layout, batch_size).compare_texts([PAIRS[i] for i in order])
        assert [verdict.logit for verdict in verdicts] == pytest.approx([logits[i] for i in order], abs=1e-9)


def test_state_dict_keys_are_those_of_the_published_weights(judge: PairRMJudge) -> None:
    keys = {key.replace(".layer.1.", ".layer.0.") for key in judge.model.state_dict()}
    layer = "pretrained_model.encoder.layer.0."
    assert {key for key in keys if not key.startswith(layer)} == {
        "pretrained_model.embeddings.word_embeddings.weight",
        "pretrained_model.embeddings.LayerNorm.weight",
        "pretrained_model.embeddings.LayerNorm.bias",
        "pretrained_model.encoder.rel_embeddings.weight",
        "pretrained_model.encoder.LayerNorm.weight",
        "pretrained_model.encoder.LayerNorm.bias",
        "head_layer.1.weight",
        "head_layer.1.bias",
        "head_layer.4.weight",
        "head_layer.4.bias",
    }
    modules = [f"attention.self.{name}_proj" for name in ("query", "key", "value")]
    modules += ["attention.output.dense", "attention.output.LayerNorm", "intermediate.dense"]
    modules += ["output.dense", "output.LayerNorm"]
    expected = {f"{layer}{module}.{kind}" for module in modules for kind in ("weight", "bias")}
    assert {key for key in keys if key.startswith(layer)} == expected


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"), "pickles"),
        (lambda path: (path / "model.safetensors").write_bytes(b"\x08" * 40), "does not fit"),
        (lambda path: drop_key(path / "model.safetensors", "head_layer.1.bias"), "head_layer.1.bias"),
        (lambda path: write_json(path / "config.json", {"model_type": "deberta"}), "model_type deberta-v2"),
        (lambda path: write_json(path / "config.json", other_ranker()), "ranker_type pairranker on microsoft/deberta"),
        (lambda path: (path / "config.json").write_text('{"model_type": "deb'), "model_type deberta-v2"),
        (lambda path: set_config(path, hidden_size="wide"), "config.json describes no PairRM ("),
        (lambda path: (path / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda path: (path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n"), "loaded ("),
        (lambda path: rename_marker(path / "tokenizer.json"), "no token <|candidate1|>"),
    ],
)
def test_what_is_no_pairrm_is_refused_in_one_sentence(folder: Path, tmp_path: Path, damage, sentence: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(UserError) as refusal:
        load_judge(copy)
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("error", TOO_LITTLE, ids=str)
@pytest.mark.parametrize(
    ("place", "name"),
    [
        (pairrm_folder.PreTrainedTokenizerFast, "from_pretrained"),
        (pairrm_folder, "PairRM"),
        (pairrm_folder, "load_file"),
        (pairrm_judge, "on_device"),
    ],
    ids=["tokenizer", "model", "weights", "GPU"],
)
def test_too_little_memory_is_no_damaged_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: object, name: str, error: Exception
) -> None:
    monkeypatch.setattr(place, name, Mock(side_effect=error))
    with pytest.raises(UserError, match=r"^There is too little memory for the judge in .*; free some") as refusal:
        load_judge(folder)
    assert str(folder) in str(refusal.value) and "capacity" not in str(refusal.value)


def test_an_extra_key_is_refused_too(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    save_file({**weights, "head_layer.6.bias": torch.zeros(1)}, copy / "model.safetensors")
    with pytest.raises(UserError, match=r"head_layer\.6\.bias"):
        load_model(copy, (1, 2, 3))


def test_the_saved_config_is_the_architecture(folder: Path) -> None:
    fields = architecture(folder)
    assert fields["pos_att_type"] == ["p2c", "c2p"] and fields["position_buckets"] == 8 and fields["n_tasks"] == 1
    assert read_json(folder / "config.json")["cand1_prefix_id"] == fields["source_prefix_id"] + 1


def test_the_original_repository_s_form_gives_the_same_scores(tmp_path: Path, monkeypatch) -> None:
    """Its config.json names the backbone only, whose sizes are then known: here those of the tiny fixture."""
    hub = tiny_pairrm.write(tmp_path / "PairRM-hf")
    original = tiny_pairrm.write(tmp_path / "PairRM")
    write_json(original / "config.json", tiny_pairrm.ranker_config("microsoft/deberta-v3-large", 1224, 412))
    sizes = {key: tiny_pairrm.config()[key] for key in pairrm_folder.DEBERTA_V3_LARGE}
    monkeypatch.setattr(pairrm_folder, "DEBERTA_V3_LARGE", sizes)
    logits = []
    for path in (hub, original):
        layout = Layout(load_tokenizer(path), 40, 24)
        judge = PairRMJudge(load_model(path, layout.marker_ids), layout, 4)
        logits.append([verdict.logit for verdict in judge.compare_texts(PAIRS)])
    assert logits[0] == logits[1] and abs(logits[0][0]) > 0.1


def test_the_backbone_of_the_original_weights_has_their_size(tmp_path: Path) -> None:
    """436,014,081 parameters and the keys of the tiny fixture's state dict, but for the number of layers."""
    write_json(tmp_path / "config.json", tiny_pairrm.ranker_config("microsoft/deberta-v3-large", 1224, 412))
    fields = architecture(tmp_path)
    assert (fields["n_tasks"], fields["drop_out"]) == (1, 0.05)
    with torch.device("meta"):
        model = PairRM(DebertaV2Config(**fields), (1, 2, 3))
    assert sum(parameter.numel() for parameter in model.parameters()) == 436_014_081
    keys = {re.sub(r"layer\.\d+\.", "layer.0.", key) for key in model.state_dict()}
    assert keys == {re.sub(r"layer\.\d+\.", "layer.0.", key) for key in tiny_pairrm.shapes()}


WEIGHTS = "EPSILON_DPO_PAIRRM_FOLDER"


@pytest.mark.weights
@pytest.mark.skipif(WEIGHTS not in os.environ, reason=f"{WEIGHTS} names no folder with llm-blender/PairRM-hf's files")
def test_the_published_weights_give_the_published_values() -> None:
    """The model card's f(A, B) in float32, and the README's ranks."""
    folder = Path(os.environ[WEIGHTS])
    layout = Layout(load_tokenizer(folder), 1224, 412)
    judge = PairRMJudge(load_model(folder, layout.marker_ids), layout, 4)
    pairs = [Pair("hello!", "hi!", "f**k off!"), Pair("I love you!", "I hate you!", "I love you, too!")]
    assert [verdict.f_ab for verdict in judge.compare_texts(pairs)] == pytest.approx(
        [1.9003021717071533, -1.2547134160995483], abs=2e-3
    )
    prompts = [[{"role": "user", "content": text}] for text in ("hello, how are you!", "I love you!")]
    candidates = [
        ["get out!", "hi! I am fine, thanks!", "bye!"],
        ["I love you too!", "I hate you!", "Thanks! You're a good guy!"],
    ]
    ranks = [rankdata([-score for score in scores]).tolist() for scores in judge.rank(prompts, candidates)]
    assert ranks == [[3, 1, 2], [1, 3, 2]]


def other_ranker() -> dict:
    return tiny_pairrm.ranker_config("roberta-large", 128, 128)


def set_config(folder: Path, **changes: object) -> None:
    write_json(folder / "config.json", read_json(folder / "config.json") | changes)


def drop_key(file: Path, key: str) -> None:
    weights = load_file(file)
    del weights[key]
    save_file(weights, file)


def rename_marker(file: Path) -> None:
    file.write_text(file.read_text("utf-8").replace("<|candidate1|>", "<|candidateX|>"), "utf-8")
