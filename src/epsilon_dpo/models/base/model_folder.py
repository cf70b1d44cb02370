"""Writing a language model and its tokenizer so that every later stage stops at the same token."""

from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """out/tokenizer and out/model, with the ids of the tokenizer's special tokens in the model's two configurations.

    `tokenizer.eos_token` is the stop token. The generation configuration is a new one: an upstream one may carry a
    temperature or a top-p, and sampling is decided in params.yaml alone.
    """
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, value in ids.items():
        setattr(model.config, name, value)
    model.generation_config = GenerationConfig(**ids)
    model.config._name_or_path = ""  # the place it was loaded from must not reach the bytes that DVC compares
    tokenizer.save_pretrained(out / "tokenizer")
    model.save_pretrained(out / "model")
    for file in (out / "model").glob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes it private to the user
