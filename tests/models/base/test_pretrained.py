"""A pretrained model: what is copied, what is changed, and one sentence for each way in which a folder can be wrong."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from hub_stand_in import REVISION, Hub, point_to
from published_tokenizer import publish
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from epsilon_dpo.models.base.embedded import train_tokenizer
from epsilon_dpo.models.base.gemma_template import TEMPLATE
from epsilon_dpo.models.base.model_folder import write_model
from epsilon_dpo.models.base.params import EmbeddedModel, PretrainedModel
from epsilon_dpo.models.base.pretrained import load_pretrained, load_tokenizer, load_tokenizer_alone
from epsilon_dpo.models.logps.head import check_head
from epsilon_dpo.pipeline.observability.errors import UserError

REAL = Path(os.environ.get("EPSILON_DPO_REAL_MODELS") or Path.home() / ".cache" / "epsilon-dpo")
OWN_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)


def params(path: Path | str, **changes: Any) -> PretrainedModel:
    settings = {
        "source": "pretrained",
        "path": str(path),
        "revision": None,
        "dtype": "float32",
        "chat_template": "own",
        "stop_token": "<eos>",
    }
    return PretrainedModel(**{**settings, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llama in bfloat16 as another project saved it: own template and stop token, a sampling default of its own."""
    sizes = EmbeddedModel(
        source="embedded",
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.1,
        max_position_embeddings=64,
    )
    tokenizer = train_tokenizer(["Hello there.", "Good day."] * 5, sizes)
    tokenizer.chat_template = OWN_TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).bfloat16()
    model.generation_config.temperature, model.generation_config.do_sample = 0.6, True
    path = tmp_path / "llama"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    content.update(changes)
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_weights_are_copied_and_the_stop_token_is_everywhere(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load_pretrained(params(folder))
    write_model(model, tokenizer, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", dtype="auto")
    original = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert loaded.dtype == torch.float32
    for (name, weight), (_, expected) in zip(loaded.named_parameters(), original.named_parameters(), strict=True):
        assert torch.equal(weight, expected), name
    assert tokenizer.eos_token == "<eos>"
    assert loaded.config.eos_token_id == loaded.generation_config.eos_token_id == 1
    assert loaded.generation_config.temperature is None, "upstream sampling defaults must not reach the samples"
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer").chat_template == OWN_TEMPLATE
    for file in (tmp_path / "out").rglob("*.json"):
        assert str(folder) not in file.read_text(), "the place of origin must not reach the outputs"


def test_the_gemma_template_replaces_the_own_one(folder: Path) -> None:
    gemma = params(folder, chat_template="gemma", stop_token="<end_of_turn>", dtype="bfloat16")
    model, tokenizer = load_pretrained(gemma)
    assert tokenizer.chat_template == TEMPLATE
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == (5, 0, model.config.vocab_size)
    assert model.dtype == torch.bfloat16
    check_head(model)


def test_of_a_model_that_also_sees_images_the_text_part_is_taken(folder: Path, tmp_path: Path) -> None:
    """As Gemma 3 of 4B and more is published: its image tower has no gradient, and projections named as the text's."""
    text = {
        "vocab_size": 300, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 2, "num_key_value_heads": 1, "query_pre_attn_scalar": 8, "sliding_window": 4,
    }  # fmt: skip
    images = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(0)
    seeing = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=images)).eval()
    seeing.save_pretrained(folder)
    model, tokenizer = load_pretrained(params(folder))
    check_head(model)
    write_model(model, tokenizer, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model").eval()
    assert type(loaded).__name__ == "Gemma3ForCausalLM" and not any("vision" in x for x, _ in loaded.named_parameters())
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    ids = torch.arange(1, 13)[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, seeing(input_ids=ids).logits)


def without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def without_pad(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", pad_token=None)


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def a_shard_short(folder: Path) -> None:
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").rename(folder / weight_map["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def cut_off(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])


def forgets_bos(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(OWN_TEMPLATE.replace("{{ bos_token }}", ""))


def writes_bos_twice(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ bos_token }}" + OWN_TEMPLATE)


def no_end(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(OWN_TEMPLATE.replace("m.content", "m.content|upper"))


def computes_the_date(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ strftime_now(format) }}" + OWN_TEMPLATE)


def quantised(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})


def add_tokens(folder: Path, *tokens: str, special: bool = False, template: str = OWN_TEMPLATE) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(tokens), special_tokens=special)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def a_word_without_embedding(folder: Path) -> None:
    add_tokens(folder, "whale")


def stop_without_embedding(folder: Path) -> None:
    add_tokens(folder, "<|end|>", special=True, template=OWN_TEMPLATE.replace("<eos>", "<|end|>"))


def pad_without_embedding(folder: Path) -> None:
    add_tokens(folder, "[PAD]", special=True)
    edit(folder / "tokenizer_config.json", pad_token="[PAD]")


@pytest.mark.parametrize(
    ("spoil", "changes", "sentence"),
    [
        (shutil.rmtree, {}, "is not a folder; for a model on the Hub set base.revision to a commit"),
        (lambda folder: (folder / "config.json").unlink(), {}, "holds no config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), {}, "holds no tokenizer"),
        (only_a_pickle, {}, "holds no model.safetensors; only safetensors are read"),
        (a_shard_short, {}, "holds no model-00002-of-00002.safetensors; copy the model again"),
        (cut_off, {}, "cannot be loaded"),
        (lambda folder: edit(folder / "config.json", num_hidden_layers=2), {}, "model.layers.1"),
        (lambda folder: edit(folder / "config.json", intermediate_size=64), {}, "mlp"),
        (lambda folder: edit(folder / "config.json", model_type="llamma"), {}, "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), {}, "The tokenizer in"),
        (without_template, {}, "has no chat template of its own"),
        (without_pad, {}, "has no pad token; set base.pad_token to a token that no text uses, such as <pad>"),
        (without_pad, {"pad_token": "<nothing>"}, "base.pad_token = '<nothing>' does not fit: '<nothing>' is not one"),
        (None, {"stop_token": "<end_of_turn>"}, "; set base.stop_token to the token that ends its turns."),
        (
            forgets_bos,
            {},
            "has a fault: it writes no BOS (<bos>), which the tokenizer puts before every other text; set "
            "base.bos to prepend.",
        ),
        (None, {"bos": "prepend"}, "it writes 2 BOS tokens (<bos>); set base.bos to template."),
        (writes_bos_twice, {}, "it writes 2 BOS tokens (<bos>); fix chat_template.jinja in a local copy of the model"),
        (
            lambda folder: edit(folder / "tokenizer_config.json", bos_token=None),
            {"bos": "prepend"},
            "has no BOS token to",
        ),
        (no_end, {}, "; fix chat_template.jinja in a local copy of the model and set base.path to that."),
        (computes_the_date, {}, "its text cannot be frozen; fix chat_template.jinja"),
        (lambda folder: edit(folder / "config.json", tie_word_embeddings=True), {}, "although config.json ties it"),
        (quantised, {}, "are quantised (bitsandbytes) and cannot be trained"),
        (a_word_without_embedding, {}, "there is none for 'whale'; use the tokenizer that was saved with the weights"),
        (stop_without_embedding, {"stop_token": "<|end|>"}, "there is none for '<|end|>'"),
        (pad_without_embedding, {}, "there is none for '[PAD]'"),
        (None, {"stop_token": "<|im_end|>"}, "base.stop_token = '<|im_end|>' does not fit"),
        (None, {"stop_token": "Hello there"}, "is not one token of the vocabulary"),
        (None, {"stop_token": " "}, "' ' is not one token of the vocabulary"),  # which is written "▁" there
        (None, {"stop_token": "<0x41>"}, "'<0x41>' is not one token of the vocabulary"),  # no text becomes this one
    ],
)
def test_a_wrong_folder_is_one_sentence(folder: Path, spoil: Any, changes: dict[str, Any], sentence: str) -> None:
    if spoil:
        spoil(folder)
    with pytest.raises(UserError) as error:
        load_pretrained(params(folder, **changes))
    assert sentence in str(error.value)
    assert folder.name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("loader", [PreTrainedTokenizerFast, AutoModelForCausalLM])
def test_too_little_memory_is_no_damaged_file(folder: Path, monkeypatch: pytest.MonkeyPatch, loader: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error")

    monkeypatch.setattr(loader, "from_pretrained", fail)
    with pytest.raises(UserError, match=r"^There is too little memory for the model in .* 8 bytes\); free some or"):
        load_pretrained(params(folder))


def test_an_adapter_beside_the_weights_is_refused(folder: Path) -> None:
    """transformers would apply it, and no longer say which weights are absent."""
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds an adapter_config\.json: transformers would put that adapter on"):
        load_pretrained(params(folder))


def test_a_forgotten_bos_is_written_where_that_is_asked(folder: Path, tmp_path: Path) -> None:
    forgets_bos(folder)
    write_model(*load_pretrained(params(folder, bos="prepend")), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], return_dict=False)
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


def test_of_several_templates_the_default_is_kept(folder: Path, tmp_path: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    assert isinstance(AutoTokenizer.from_pretrained(folder).chat_template, dict)
    write_model(*load_pretrained(params(folder)), tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer").chat_template == OWN_TEMPLATE


def test_a_named_pad_token_pads(folder: Path, tmp_path: Path) -> None:
    """An unused one, or the stop token itself, which its place tells from padding."""
    without_pad(folder)
    for token, id_ in (("<unk>", 3), ("<eos>", 1)):
        model, tokenizer = load_pretrained(params(folder, pad_token=token))
        write_model(model, tokenizer, tmp_path / str(id_))
        assert AutoTokenizer.from_pretrained(tmp_path / str(id_) / "tokenizer").pad_token == token
        assert AutoModelForCausalLM.from_pretrained(tmp_path / str(id_) / "model").config.pad_token_id == id_


def test_a_special_token_may_lack_an_embedding_and_embeddings_a_token(folder: Path) -> None:
    """Gemma 3's token for an image; Qwen's vocabulary is padded to a round number."""
    add_tokens(folder, "<image_soft_token>", special=True)
    model, tokenizer = load_pretrained(params(folder))
    assert len(tokenizer) == model.config.vocab_size + 1
    model.resize_token_embeddings(len(tokenizer) + 7)
    model.save_pretrained(folder)
    assert load_pretrained(params(folder))[0].config.vocab_size == len(tokenizer) + 7


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_tied_as_they_were(folder: Path, tmp_path: Path, tied: bool) -> None:
    config = LlamaConfig(vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, tie_word_embeddings=tied)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    write_model(*load_pretrained(params(folder)), tmp_path / "out")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied


def test_a_vocabulary_without_gemmas_turns_is_refused(folder: Path) -> None:
    content = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(content.replace("<start_of_turn>", "<other>"))
    edit(folder / "tokenizer_config.json", extra_special_tokens=["<eos>", "<other>"])
    with pytest.raises(UserError, match=r"base.chat_template = gemma does not fit: '<start_of_turn>' is not one token"):
        load_pretrained(params(folder, chat_template="gemma"))


def test_a_hub_model_without_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match="google/gemma-2-2b at revision aaaaaaaa is not in the local cache"):
        load_pretrained(params("google/gemma-2-2b", revision="a" * 40))


@pytest.fixture
def on_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """The files of owner/open: `folder` with its weights in three shards, which are there in other forms too."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size=16_000)  # each of both embeddings has more
    (folder / "tokenizer.model").write_bytes(b"read only where there is no tokenizer.json")
    others = ("consolidated.safetensors", "original/model.safetensors", "pytorch_model.bin", "README.md")
    files = {path.name: path.read_bytes() for path in folder.iterdir()} | dict.fromkeys(others, b"not read")
    monkeypatch.setattr(Hub, "files", files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    point_to(f"http://127.0.0.1:{server.server_port}", tmp_path / "cache", monkeypatch)
    yield files
    server.shutdown()
    server.server_close()


def test_of_a_hub_model_what_is_read_is_downloaded_and_nothing_else(
    folder: Path, on_hub: dict[str, bytes], tmp_path: Path
) -> None:
    """Its template in a file of its own, and the weights once: all shards, or none where the tokenizer is enough."""

    def downloaded() -> set[str]:
        snapshot = tmp_path / "cache" / "models--owner--open" / "snapshots" / REVISION
        return {str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()}

    published = {path.name for path in folder.iterdir()}
    shards = {f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)}
    assert shards < published < set(on_hub)
    assert load_tokenizer_alone(params("owner/open", revision=REVISION)).chat_template == OWN_TEMPLATE
    assert downloaded() == published - shards
    model, tokenizer = load_pretrained(params("owner/open", revision=REVISION))
    assert downloaded() == published and tokenizer.chat_template == OWN_TEMPLATE
    original = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for (name, weight), (_, expected) in zip(model.named_parameters(), original.named_parameters(), strict=True):
        assert torch.equal(weight, expected), name


def test_weights_in_one_file_are_read_whatever_shards_lie_beside_them(
    folder: Path, on_hub: dict[str, bytes], tmp_path: Path
) -> None:
    """As transformers does, from the Hub and from a folder, whose index may be what is left of other weights."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    model.save_pretrained(tmp_path / "one")
    on_hub["model.safetensors"] = (tmp_path / "one/model.safetensors").read_bytes()
    shutil.copy(tmp_path / "one/model.safetensors", folder)
    (folder / "model.safetensors.index.json").write_text("{}", "utf-8")
    for where in (params("owner/open", revision=REVISION), params(folder)):
        assert torch.equal(load_pretrained(where)[0].lm_head.weight, model.lm_head.weight)
    assert not list((tmp_path / "cache").rglob("model-0*")), "one of two forms is downloaded"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"chat_template.jinja": None}, "has no chat template of its own"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"w"}, "holds an adapter_config.json: "),
        (
            {"model.safetensors.index.json": None},
            "owner/open at 01234567 holds no model.safetensors; only safetensors are read, so convert other weights "
            "with `save_pretrained`, or download it anew",
        ),
        (
            {"model-00002-of-00003.safetensors": None},
            "owner/open at 01234567 holds no model-00002-of-00003.safetensors; only safetensors are read",
        ),
    ],
)
def test_a_wrong_hub_model_is_one_sentence(
    on_hub: dict[str, bytes], changes: dict[str, bytes | None], sentence: str
) -> None:
    for name, content in changes.items():
        if content is None:
            del on_hub[name]
        else:
            on_hub[name] = content
    with pytest.raises(UserError) as error:
        load_pretrained(params("owner/open", revision=REVISION))
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "SmolLM2-135M-Instruct").is_dir(), reason="python tests/fetch_real_models.py")
def test_smollm2_keeps_its_template_and_weights() -> None:
    model: Any
    tokenizer: Any
    model, tokenizer = load_pretrained(params(REAL / "SmolLM2-135M-Instruct", stop_token="<|im_end|>"))
    assert (type(model).__name__, tokenizer.eos_token_id, tokenizer.pad_token_id) == ("LlamaForCausalLM", 2, 2)
    messages = [{"role": "user", "content": "What is the capital of Japan? Answer in one sentence."}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Tokyo" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id, "the model's own generation stops at the stop token"


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "gemma-2-tokenizer").is_dir(), reason="python tests/fetch_real_models.py")
def test_the_real_gemma_tokenizer_takes_our_template() -> None:
    gemma = params(REAL / "gemma-2-tokenizer", chat_template="gemma", stop_token="<end_of_turn>")
    tokenizer = load_tokenizer(REAL / "gemma-2-tokenizer", gemma)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_dict=False
    )
    assert ids == [2, 106, 1645, 108, 4521, 107, 108, 106, 2516, 108]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == (107, 0, 256000)


def test_the_published_tokenizer_decides_and_not_its_class(folder: Path) -> None:
    """`AutoTokenizer` splits each digit off for the class Qwen2Tokenizer, whatever tokenizer.json says."""
    published = publish(folder, OWN_TEMPLATE)
    loaded = load_tokenizer(folder, params(folder))
    expected = published.encode("hello 123456", add_special_tokens=False).ids
    assert loaded("hello 123456", add_special_tokens=False)["input_ids"] == expected
    assert len(expected) <= 4


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("model.safetensors.index.json", "{}", "is no index of safetensors; copy the model again"),
        ("model.safetensors.index.json", "<html>", "is no index of safetensors; copy the model again"),
        ("tokenizer.json", "{}", "The tokenizer in .* cannot be loaded"),
        ("tokenizer_config.json", "[]", "The tokenizer in .* cannot be loaded"),
        ("config.json", "[]", "is no configuration of a model; copy the model again"),
        ("config.json", "", "is no configuration of a model; copy the model again"),
        ("config.json", f'{{"a": {"1" * 5000}}}', "is no configuration of a model; copy the model again"),
        ("config.json", '{"a":' * 5000 + "1" + "}" * 5000, "is no configuration of a model; copy the model again"),
    ],
)
def test_a_damaged_file_is_one_sentence(folder: Path, name: str, content: str, sentence: str) -> None:
    if name.endswith(".index.json"):
        (folder / "model.safetensors").unlink()  # beside which no index is read
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        load_pretrained(params(folder))


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size"])
@pytest.mark.parametrize("value", [-1, 0, "x", 3, 1.5, []])
def test_a_wrong_number_in_the_configuration_is_one_sentence(folder: Path, key: str, value: Any) -> None:
    """No number of layers, heads or embeddings but the right one gives the model that the weights are of."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(UserError) as refused:
        load_pretrained(params(folder))
    assert "\n" not in str(refused.value)


def test_the_sentence_names_the_block_that_is_wrong(tmp_path: Path) -> None:
    """A reward model starts from a model of its own; changing base would train all policies anew."""
    absent = params(tmp_path / "absent")
    with pytest.raises(UserError, match=r"^judge\.model\.path = .* is not a folder; .* set judge\.model\.revision"):
        load_pretrained(absent, "judge.model")
