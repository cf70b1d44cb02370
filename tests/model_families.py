"""The model families that are tried: a tokenizer, a chat template and an architecture each, with random weights.

A tokenizer is the family's own where a package index carries it (fetch_real_models.py), else one of its kind. A
template is the tokenizer's own, or written here in the form of the family's.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

REAL = Path(os.environ.get("EPSILON_DPO_REAL_MODELS") or Path.home() / ".cache" / "epsilon-dpo")
OWNERS = {
    "gemma-2-tokenizer": "Gemma 2",
    "gemma-3-tokenizer": "Gemma 3",
    "llama-2-tokenizer": "Llama 2",
    "llama-3-tokenizer": "Llama 3",
    "qwen-3-tokenizer": "Qwen 3",
    "gpt-2-tokenizer": "GPT-2",
    "SmolLM2-135M-Instruct": "SmolLM2",
}
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
WINDOW = {"sliding_window": 16}  # shorter than the rows
LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}

CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ ' ' + m.content + eos_token }}{% endif %}"
    "{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
OLMO = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '' if loop.last and m.role == 'assistant' else '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role }}:\n{{ m.content }}{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """What is tried of one family.

    Attributes:
        tokenizer: a folder of fetch_real_models.py.
        config, changes: the architecture and what it needs beside SIZES.
        vocabulary: embeddings.
        stop: `base.stop_token`.
        notes: what stage `base` notes of the template.
        template: text in the place of the tokenizer's own.
        base: other keys of `base`.
        special: tokens that are added to the vocabulary.
    """

    tokenizer: str
    config: Callable[..., PreTrainedConfig]
    changes: dict[str, Any]
    vocabulary: int
    stop: str
    notes: str
    template: str | None = None
    base: dict[str, Any] = field(default_factory=dict)
    special: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """The model as a user has it: a folder in Hub format, bfloat16."""
        shutil.copytree(REAL / self.tokenizer, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
        if self.template is not None:
            (folder / "chat_template.jinja").write_text(self.template, "utf-8")
        if self.special:
            tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            tokenizer.add_special_tokens({"additional_special_tokens": list(self.special)})
            if self.base.get("bos") != "prepend":  # as Phi-3's: this one adds none
                tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
            tokenizer.save_pretrained(folder)
        torch.manual_seed(0)
        config = self.config(**SIZES, vocab_size=self.vocabulary, **self.changes)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


SOFT_CAPPED = {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
GEMMA_STOP, CHATML_STOP = "<end_of_turn>", "<|im_end|>"
TIED = {"tie_word_embeddings": True}
RESERVED = {"pad_token": "<|reserved_special_token_0|>"}
PAD = {"pad_token": "<unk>"}
NO_SYSTEM, WINDOWED = "has no system role", WINDOW | LAYERS
FAMILIES: dict[str, Family] = {
    "Gemma 2": Family("gemma-2-tokenizer", Gemma2Config, SOFT_CAPPED | WINDOWED, 256000, GEMMA_STOP, NO_SYSTEM),
    # The tokenizer's last token, 262144, is an image, which the text models cannot see.
    "Gemma 3": Family(
        "gemma-3-tokenizer", Gemma3TextConfig, {"query_pre_attn_scalar": 8} | WINDOWED, 262144, GEMMA_STOP, ""
    ),
    "Llama 3": Family("llama-3-tokenizer", LlamaConfig, {}, 128256, "<|eot_id|>", "", base=RESERVED),
    "Mistral": Family("llama-2-tokenizer", MistralConfig, WINDOW, 32000, "</s>", NO_SYSTEM, MISTRAL, PAD),
    "Qwen 2.5": Family("qwen-3-tokenizer", Qwen2Config, TIED, 151936, CHATML_STOP, "", CHATML),
    "Qwen 3": Family(
        "qwen-3-tokenizer",
        Qwen3Config,
        TIED,
        151936,
        CHATML_STOP,
        r"begins an answer with '<think>\n\n</think>\n\n', cuts <think> from earlier answers",
    ),
    "Phi-3": Family(
        "llama-2-tokenizer",
        Phi3Config,
        WINDOW | {"pad_token_id": 0},
        32064,
        "<|end|>",
        "writes no BOS (<s>)",
        PHI,
        {"pad_token": "<|endoftext|>"},
        ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
    ),
    "SmolLM2": Family("SmolLM2-135M-Instruct", LlamaConfig, TIED, 49152, CHATML_STOP, ""),
    "Zephyr": Family("llama-2-tokenizer", MistralConfig, WINDOW, 32000, "</s>", "", ZEPHYR, PAD | {"bos": "prepend"}),
    "OLMo 2": Family(
        "gpt-2-tokenizer", Olmo2Config, {}, 50304, "<|endoftext|>", "", OLMO, {"pad_token": "<|pad|>"}, ("<|pad|>",)
    ),
    "GPT-2": Family(
        "gpt-2-tokenizer",
        GPT2Config,
        {},
        50257,
        "<|endoftext|>",
        "writes no BOS (<|endoftext|>)",
        PLAIN,
        {"pad_token": "<|endoftext|>"},
    ),
}
