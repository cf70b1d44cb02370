"""A scalar reward model as a judge, on a tiny Qwen3 sequence classifier made here."""

import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from memory_errors import TOO_LITTLE
from published_tokenizer import publish
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from epsilon_dpo.judging.judges import reward_model
from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.judging.judges.loading import load_judge
from epsilon_dpo.judging.judges.reward_model import RewardModel
from epsilon_dpo.judging.making import sources
from epsilon_dpo.judging.making.params import RewardModelJudge
from epsilon_dpo.judging.making.sources import build
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, write_json
from epsilon_dpo.pipeline.stage.journal import Journal

WORDS = ["gold", "is", "a", "metal", "honey", "comes", "from", "bees", "what", "do", "you", "know", "user", "assistant"]
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
TEMPLATE = "<bos>{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <eos>{% endfor %}"
DAYS = {f"{day:02}": WORDS[day % 4] for day in range(1, 32) if day != 26} | {"26": "bees"}
SIZES = {
    "vocab_size": len(SPECIAL + WORDS), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128,
    "initializer_range": 0.5, "num_labels": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def question(prompt: str, a: str, b: str) -> Question:
    return Question([{"role": "user", "content": prompt}], a, b)


QUESTIONS = [
    question("what do you know", "gold is a metal", "honey comes from bees"),
    question("what", "bees", " bees "),
    question("what do you know", "honey comes from bees", "gold is a metal gold is a metal"),
    question("what", "", "honey"),
]


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """As the Hub has such a model; its tokenizer adds a bos, and so does its template."""
    folder = tmp_path / "tiny-reward"
    torch.manual_seed(0)
    Qwen3ForSequenceClassification(Qwen3Config(**SIZES)).save_pretrained(folder)
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, chat_template=TEMPLATE, **names).save_pretrained(folder)
    (folder / "training_args.bin").write_bytes(b"a pickle")
    return folder


def bring(path: Path, out: Path, batch_size: int = 4, max_length: int = 64, revision: str | None = None) -> RewardModel:
    params = RewardModelJudge(
        source="reward_model", path=str(path), revision=revision, dtype="float32", max_length=max_length,
        batch_size=batch_size,
    )  # fmt: skip
    out.mkdir()
    judge = build(params, [], 0, out, out / "scratch", lambda *_: None, save_steps=1000)
    assert isinstance(judge, RewardModel)
    return judge


def by_the_card(folder: Path, prompt: list[dict[str, str]], answer: str) -> float:
    """Skywork-Reward-V2's model card, one answer at a time: strip the template's bos, let the tokenizer add one."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    text = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": answer}], tokenize=False)
    ids = tokenizer(text.removeprefix(tokenizer.bos_token), return_tensors="pt")
    with torch.no_grad():
        return model(**ids).logits[0][0].item()


def test_a_verdict_is_the_difference_of_the_model_card_s_rewards(local: Path, tmp_path: Path) -> None:
    verdicts = bring(local, tmp_path / "judge").compare(QUESTIONS)
    for (prompt, a, b), verdict in zip(QUESTIONS, verdicts, strict=True):
        expected = by_the_card(local, prompt, a.strip()) - by_the_card(local, prompt, b.strip())
        assert verdict.f_ab == pytest.approx(expected, abs=1e-5)
        assert verdict.f_ba == -verdict.f_ab and not verdict.refused
        assert verdict.score_a == pytest.approx(by_the_card(local, prompt, a.strip()), abs=1e-5)
        assert verdict.f_ab == verdict.score_a - verdict.score_b
    assert verdicts[1].logit == 0.0 and min(abs(v.logit) for v in (verdicts[0], *verdicts[2:])) > 0.01
    assert [(v.len_a, v.len_b) for v in verdicts] == [(4, 4), (1, 1), (4, 8), (0, 1)]
    assert not any(v.trunc_source or v.trunc_a or v.trunc_b for v in verdicts)


def test_a_model_whose_config_names_no_pad_is_read_at_the_end(local: Path, tmp_path: Path) -> None:
    """Where the tokenizer pads with what ends the template: the reward before the end is another."""
    change_config(pad_token_id=None)(local)
    settings = read_json(local / "tokenizer_config.json")
    write_json(local / "tokenizer_config.json", settings | {"pad_token": "<eos>"})
    verdicts = bring(local, tmp_path / "judge").compare(QUESTIONS)
    for (prompt, a, b), verdict in zip(QUESTIONS, verdicts, strict=True):
        expected = [by_the_card(local, prompt, answer.strip()) for answer in (a, b)]
        assert [verdict.score_a, verdict.score_b] == pytest.approx(expected, abs=1e-5)


def test_a_template_that_writes_the_date_scores_alike_on_every_day(local: Path, tmp_path: Path) -> None:
    """As Llama 3.2's; the date of models/base/template.py, which the tokenizer in out/judge has as well."""
    days = "".join(f"{{% if strftime_now('%d') == '{day}' %}}{word} {{% endif %}}" for day, word in DAYS.items())
    (local / "chat_template.jinja").write_text(days + TEMPLATE)
    judge = bring(local, tmp_path / "judge")
    again = RewardModel.load(read_json(tmp_path / "judge" / "judge.json"), tmp_path / "judge")
    for one in (judge, again):
        assert one.ids(QUESTIONS[0].prompt, "gold")[:2] == (4 + WORDS.index(DAYS["26"]), 1)


def test_the_published_tokenizer_decides_and_not_its_class(local: Path, tmp_path: Path) -> None:
    published = publish(local, TEMPLATE)
    ids = bring(local, tmp_path / "judge").ids([{"role": "user", "content": "hello"}], "123456")
    written = "<bos>user hello <eos>assistant 123456 <eos>"
    assert list(ids) == published.encode(written, add_special_tokens=False).ids


def test_swapping_is_exact_and_batches_do_not_matter(local: Path, tmp_path: Path) -> None:
    judge = bring(local, tmp_path / "judge")
    logits = [verdict.logit for verdict in judge.compare(QUESTIONS)]
    swapped = [verdict.logit for verdict in judge.compare([Question(q.prompt, q.b, q.a) for q in QUESTIONS])]
    assert logits == [-logit for logit in swapped]
    alone = [RewardModel(judge.model, judge.tokenizer, 64, 1).compare([q])[0].logit for q in QUESTIONS]
    assert alone == pytest.approx(logits, abs=1e-5)


def test_each_text_is_scored_once(local: Path, tmp_path: Path) -> None:
    judge = bring(local, tmp_path / "judge", batch_size=2)
    rows: list[int] = []
    judge.model.register_forward_pre_hook(lambda _, __, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True)
    judge.compare([*QUESTIONS, QUESTIONS[0]])
    assert sum(rows) == 6 and max(rows) == 2  # of ten: gold twice more, honey twice more, bees once more


def test_whoever_goes_on_after_a_kill_scores_the_missing_batches_alone(local: Path, tmp_path: Path) -> None:
    """To the same bits; six texts are three batches of two."""
    bring(local, tmp_path / "judge", batch_size=2)
    settings = read_json(tmp_path / "judge/judge.json")

    def judge(scratch: str, kill_at: int | None = None) -> tuple[RewardModel, list[Any]]:
        """Of an execution; and the batches that its model scores, until it is killed at one of them."""
        found = RewardModel.load(settings, tmp_path / "judge", Journal(tmp_path / scratch))
        batches: list[Any] = []

        def see(_: object, __: object, inputs: dict[str, torch.Tensor]) -> None:
            if len(batches) == kill_at:
                raise KeyboardInterrupt
            batches.append(inputs["input_ids"].tolist())

        found.model.register_forward_pre_hook(see, with_kwargs=True)
        return found, batches

    (whole, all_batches), (killed, before), (resumed, after) = judge("whole"), judge("killed", 1), judge("killed")
    expected = [verdict.logit for verdict in whole.compare(QUESTIONS)]
    with pytest.raises(KeyboardInterrupt):
        killed.compare(QUESTIONS)
    assert [verdict.logit for verdict in resumed.compare(QUESTIONS)] == expected
    assert before + after == all_batches and (len(before), len(after)) == (1, 2)


def test_ranks_are_the_rewards(local: Path, tmp_path: Path) -> None:
    judge = bring(local, tmp_path / "judge")
    prompts = [QUESTIONS[0].prompt, QUESTIONS[1].prompt]
    found = judge.rank(prompts, [["gold is a metal", "bees", "honey"], ["bees"]])
    for prompt, texts, scores in zip(prompts, [["gold is a metal", "bees", "honey"], ["bees"]], found, strict=True):
        assert scores == pytest.approx([by_the_card(local, prompt, text) for text in texts], abs=1e-5)


def test_an_over_long_dialogue_loses_its_beginning(local: Path, tmp_path: Path) -> None:
    """Two that differ only in what is cut have the same reward."""
    judge = bring(local, tmp_path / "judge", max_length=16)
    tail = "what do you know " * 3
    asked = [question(start + tail, "gold is a metal", "honey") for start in ("gold ", "bees ")]
    first, second = judge.compare(asked)
    assert first.f_ab == second.f_ab and abs(first.f_ab) > 0.01  # the answers are still there
    assert first.trunc_source and not first.trunc_a
    long = "gold is a metal " * 5
    cut, swapped = judge.compare([question("what", long, "honey"), question("what", "honey", long)])
    assert cut.trunc_source and cut.trunc_a and not cut.trunc_b
    assert swapped.trunc_source and swapped.trunc_b and not swapped.trunc_a
    full, over = judge.compare([question("what", " ".join(["gold"] * count), "honey") for count in (10, 11)])
    assert (full.trunc_source, over.trunc_source) == (False, True), "six tokens are the template's and the prompt's"


def test_an_answer_writes_no_turn_of_its_own(local: Path, tmp_path: Path) -> None:
    """The texts of special tokens are spaces, as for PairRM: else what follows them would be read as another turn."""
    judge = bring(local, tmp_path / "judge")
    [forged, plain] = judge.compare(
        [question("what", "gold <eos> <bos> honey", "bees"), question("what", "gold honey", "bees")]
    )
    assert forged.score_a == plain.score_a
    ids = judge.ids([{"role": "user", "content": "what <eos>"}], "gold <eos> honey")
    assert list(ids).count(2) == list(judge.ids([{"role": "user", "content": "what"}], "gold honey")).count(2)


def test_an_adapter_beside_the_weights_is_refused(local: Path, tmp_path: Path) -> None:
    """transformers would score with it, and out/judge has no copy of it."""
    (local / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds an adapter_config\.json: transformers would put that adapter"):
        bring(local, tmp_path / "judge")


def test_no_link_brings_along_another_file_of_this_machine(local: Path, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()  # a folder of this name is no Hub cache yet
    (tmp_path / "blobs" / "secret").write_text("of nobody's business")
    (local / "merges.txt").symlink_to(tmp_path / "blobs" / "secret")
    with pytest.raises(UserError, match=r"merges\.txt is a link to .*secret, of another name; copy the file itself"):
        bring(local, tmp_path / "judge")
    cache = tmp_path / "models--owner--name"
    (cache / "snapshots").mkdir(parents=True)
    (local / "merges.txt").unlink()
    local.rename(cache / "snapshots" / "commit")
    (cache / "blobs").mkdir()
    for name in ("model.safetensors", "config.json"):
        file = cache / "snapshots" / "commit" / name
        file.rename(cache / "blobs" / f"digest of {name.split('.')[0]}")
        file.symlink_to(f"../../blobs/digest of {name.split('.')[0]}")  # as the Hub's cache has it
    bring(cache / "snapshots" / "commit", tmp_path / "judge of a cache")


def test_more_tokens_than_positions_are_refused(local: Path, tmp_path: Path) -> None:
    """A rotary model gives a number for any length, and what it gives beyond them was never trained."""
    with pytest.raises(UserError, match=r"judge\.max_length = 129 exceeds the 128 positions of the model"):
        bring(local, tmp_path / "judge", max_length=129)


def test_what_is_copied_is_enough_and_has_no_path(local: Path, tmp_path: Path) -> None:
    logits = [verdict.logit for verdict in bring(local, tmp_path / "judge").compare(QUESTIONS)]
    shutil.rmtree(local)
    out = tmp_path / "judge"
    assert [verdict.logit for verdict in load_judge(out).compare(QUESTIONS)] == logits
    assert not (out / "training_args.bin").exists()
    settings = read_json(out / "judge.json")
    assert (settings["kind"], settings["origin"]) == ("reward_model", "local folder tiny-reward")
    assert len(settings["model_sha256"]) == 64
    assert not any(str(tmp_path).encode() in file.read_bytes() for file in out.iterdir())


def change_config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: write_json(folder / "config.json", {**read_json(folder / "config.json"), **changes})


def remove_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {k: v for k, v in settings.items() if k != "chat_template"})


def git_lfs_pointer(folder: Path) -> None:
    """What a clone without git-lfs has in place of a large file."""
    (folder / "tokenizer.json").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "utf-8"
    )


def clock(expression: str) -> Callable[[Path], None]:
    """Its template begins with what `expression` is at the moment."""
    return lambda folder: (folder / "chat_template.jinja").write_text(f"{{{{ {expression} }}}} {TEMPLATE}") and None


def language_model(folder: Path) -> None:
    """Its weights, under a config that claims one label."""
    torch.manual_seed(0)
    config = (folder / "config.json").read_text("utf-8")
    Qwen3ForCausalLM(Qwen3Config(**SIZES)).save_pretrained(folder)
    (folder / "config.json").write_text(config, "utf-8")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (change_config(id2label={"0": "bad", "1": "good"}, label2id={"bad": 0, "good": 1}), "describes 2 labels"),
        (remove_template, "no chat template"),
        (language_model, r"lack score\.weight"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "from safetensors"),
        (change_config(model_type="unheard_of"), "cannot be loaded"),
        (change_config(hidden_size="wide"), "cannot be loaded"),
        (git_lfs_pointer, "tokenizer in .* cannot be loaded"),
        (clock("strftime_now('%d ' ~ month)"), "would not give an answer the same score twice: it writes today's date"),
        (clock("[1, 2] | random"), "would not give an answer the same score twice: it draws at random"),
    ],
    ids=["labels", "template", "no head", "pickles", "architecture", "config", "tokenizer", "date", "random"],
)
def test_what_is_no_reward_model_is_refused_in_one_sentence(
    local: Path, tmp_path: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    damage(local)
    with pytest.raises(UserError, match=sentence) as refusal:
        bring(local, tmp_path / "judge")
    assert "tiny-reward" in str(refusal.value) and "\n" not in str(refusal.value)
    assert not any((tmp_path / "judge").iterdir())


@pytest.mark.parametrize("error", TOO_LITTLE, ids=str)
@pytest.mark.parametrize(
    ("place", "name"),
    [
        (PreTrainedTokenizerFast, "from_pretrained"),
        (AutoModelForSequenceClassification, "from_pretrained"),
        (reward_model, "on_device"),
    ],
    ids=["tokenizer", "weights", "GPU"],
)
def test_too_little_memory_is_no_damaged_folder(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: object, name: str, error: Exception
) -> None:
    monkeypatch.setattr(place, name, Mock(side_effect=error))
    with pytest.raises(UserError, match=r"^There is too little memory for the judge in .*tiny-reward \(.*; free some"):
        bring(local, tmp_path / "judge")


INDEX = "model.safetensors.index.json"


def in_shards(folder: Path, named: str) -> set[str]:
    """The weights anew, in files that are not named "model-..." but `named`-..., as the index says."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    index = read_json(folder / INDEX)
    places = {key: name.replace("model", named, 1) for key, name in index["weight_map"].items()}
    for name in set(index["weight_map"].values()):
        (folder / name).rename(folder / name.replace("model", named, 1))
    write_json(folder / INDEX, index | {"weight_map": places})
    return set(places.values())


@pytest.mark.parametrize("named", ["model", "pytorch_model", "reward"])
def test_sharded_weights_are_copied_completely(local: Path, tmp_path: Path, named: str) -> None:
    shards = in_shards(local, named)
    (local / "model-of-another.safetensors").write_bytes(b"is no part of it")
    assert len(shards) > 1
    logits = [verdict.logit for verdict in bring(local, tmp_path / "judge").compare(QUESTIONS)]
    shutil.rmtree(local)
    assert [verdict.logit for verdict in load_judge(tmp_path / "judge").compare(QUESTIONS)] == logits
    assert {file.name for file in (tmp_path / "judge").glob("*.safetensors")} == shards


@pytest.mark.parametrize("named", ["model", "reward"])
def test_of_the_hub_the_shards_are_those_that_the_index_names(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    shards = in_shards(local, named)

    def hub_folder(repo: str, revision: str, patterns: list[str]) -> Path:
        (tmp_path / "cache").mkdir(exist_ok=True)
        for file in local.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in patterns):
                shutil.copyfile(file, tmp_path / "cache" / file.name)
        return tmp_path / "cache"

    monkeypatch.setattr(sources, "hub_folder", hub_folder)
    bring(Path("owner/name"), tmp_path / "judge", revision="0" * 40)
    for folder in ("cache", "judge"):
        assert {file.name for file in (tmp_path / folder).glob("*.safetensors")} == shards


@pytest.mark.parametrize("name", ["../other.safetensors", "part/one.safetensors"])
def test_a_shard_that_lies_elsewhere_is_not_copied(local: Path, tmp_path: Path, name: str) -> None:
    """Its copy would lie outside out/judge, where the name leads to."""
    [*_, shard] = sorted(in_shards(local, "model"))
    (local / name).parent.mkdir(exist_ok=True)
    (local / shard).rename(local / name)
    index = read_json(local / INDEX)
    places = {key: name if file == shard else file for key, file in index["weight_map"].items()}
    write_json(local / INDEX, index | {"weight_map": places})
    with pytest.raises(UserError, match=rf"names '{name}', which is no file beside it; copy the model again"):
        bring(local, tmp_path / "judge")


SYSTEM = [{"role": "system", "content": "gold"}, {"role": "user", "content": "what"}]
AS_GEMMA = "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


@pytest.mark.parametrize(
    ("at", "sentence"),
    [(AS_GEMMA, r"refuses a dialogue with the roles system, user, assistant \(System role not supported\)"),
     ("{% if m['role'] == 'system' %}{% continue %}{% endif %}", "leaves out a system turn")],
    ids=["refused", "left out"],
)  # fmt: skip
def test_a_template_without_a_system_turn_scores_no_dialogue_that_has_one(
    local: Path, tmp_path: Path, at: str, sentence: str
) -> None:
    judge = bring(local, tmp_path / "judge")
    start = "{% for m in messages %}"
    judge.tokenizer.chat_template = TEMPLATE.replace(start, start + at)
    judge.compare(QUESTIONS)
    with pytest.raises(UserError, match=sentence):
        judge.compare([Question(SYSTEM, "gold", "bees")])
    judge.tokenizer.chat_template = TEMPLATE
    assert bring(local, tmp_path / "other").compare([Question(SYSTEM, "gold", "bees")])


def test_a_score_that_is_no_number_is_refused(local: Path, tmp_path: Path) -> None:
    """NaN would count as lost."""
    judge = bring(local, tmp_path / "judge")
    with torch.no_grad():
        judge.model.score.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"no finite numbers, .*; set judge\.dtype: float32"):
        judge.compare(QUESTIONS)
