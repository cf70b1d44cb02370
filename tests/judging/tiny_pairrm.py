"""A PairRM folder small enough for every test, with random weights whose logits are far from zero.

Its bytes do not depend on the versions of the libraries: the vocabulary is written down, each weight is drawn by its
name. So another process, with llm-blender and an old transformers, can make the same one (llm_blender_oracle.py).
"""

import json
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import Unigram
from tokenizers.processors import TemplateProcessing

TEXT = "the moon orbits earth gold is a metal honey comes from bees what do you know about tell me more please"
WORDS = TEXT.split()
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"<>|[]()/-_…⁄½ﬁ"
MARKERS = ["<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"]
HIDDEN, LAYERS, HEADS, INTERMEDIATE = 64, 3, 4, 128


def tokenizer() -> Tokenizer:
    """PairRM's in small: a Unigram model with its special tokens; NFKC and a replaced zero-width space for nmt_nfkc."""
    special = [(token, 0.0) for token in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
    words = [(f"▁{word}", -5.0 - i / 100) for i, word in enumerate(WORDS)]
    characters = [(character, -10.0 - i / 100) for i, character in enumerate("▁" + CHARACTERS)]
    made = Tokenizer(Unigram([*special, *words, *characters], unk_id=3))
    made.normalizer = normalizers.Sequence(
        [
            normalizers.Strip(),
            normalizers.Replace("\u200b", " "),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    made.post_processor = TemplateProcessing(single="[CLS]:0 $A:0 [SEP]:0", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    made.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"])
    made.add_tokens([AddedToken(marker, normalized=True) for marker in MARKERS])
    return made


def config() -> dict:
    """PairRM-hf's config.json but for the sizes."""
    ids = {marker: tokenizer().token_to_id(marker) for marker in MARKERS}
    return {
        "architectures": ["DebertaV2PairRM"],
        "model_type": "deberta-v2",
        "vocab_size": tokenizer().get_vocab_size(),
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INTERMEDIATE,
        "pooler_hidden_size": HIDDEN,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-07,
        "type_vocab_size": 0,
        "max_position_embeddings": 512,
        "position_buckets": 256,
        "relative_attention": True,
        "max_relative_positions": -1,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "pad_token_id": 0,
        "pooler_dropout": 0,
        "pooler_hidden_act": "gelu",
        "n_tasks": 1,
        "drop_out": 0.05,
        "source_prefix_id": ids["<|source|>"],
        "cand1_prefix_id": ids["<|candidate1|>"],
        "cand2_prefix_id": ids["<|candidate2|>"],
        "cand_prefix_id": ids["<|candidate|>"],
        "torch_dtype": "float32",
        "transformers_version": "4.35.2",
    }


def ranker_config(backbone: str, source_max_length: int, candidate_max_length: int) -> dict:
    """The config.json of the original llm-blender/PairRM, which is no Hub config."""
    return {
        "ranker_type": "pairranker",
        "model_type": "deberta",
        "model_name": backbone,
        "cache_dir": None,
        "load_checkpoint": None,
        "source_maxlength": source_max_length,
        "candidate_maxlength": candidate_max_length,
        "n_tasks": 1,
        "num_pos": 5,
        "num_neg": 5,
        "sub_sampling_mode": "all_pair",
        "sub_sampling_ratio": 0.4,
        "loss_type": "instructgpt",
        "reduce_type": "linear",
        "inference_mode": "bubble",
        "drop_out": 0.05,
        "fp16": True,
    }


def shapes() -> dict[str, list[int]]:
    """The published state dict's keys (specification 1.2), with this size's shapes."""
    backbone = "pretrained_model."
    found = {
        f"{backbone}embeddings.word_embeddings.weight": [config()["vocab_size"], HIDDEN],
        f"{backbone}encoder.rel_embeddings.weight": [2 * 256, HIDDEN],
    }
    norms = [f"{backbone}embeddings.LayerNorm", f"{backbone}encoder.LayerNorm"]
    linears = {"head_layer.1": [HIDDEN, 2 * HIDDEN], "head_layer.4": [1, HIDDEN]}
    for i in range(LAYERS):
        layer = f"{backbone}encoder.layer.{i}."
        linears |= {f"{layer}attention.self.{name}_proj": [HIDDEN, HIDDEN] for name in ("query", "key", "value")}
        linears |= {f"{layer}attention.output.dense": [HIDDEN, HIDDEN]}
        linears |= {
            f"{layer}intermediate.dense": [INTERMEDIATE, HIDDEN],
            f"{layer}output.dense": [HIDDEN, INTERMEDIATE],
        }
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
    for name, shape in linears.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        found |= {f"{name}.weight": [HIDDEN], f"{name}.bias": [HIDDEN]}
    return found


def weights() -> dict[str, torch.Tensor]:
    """Normal draws of standard deviation 0.3, LayerNorm weights around 1."""
    found = {}
    for name, shape in shapes().items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        drawn = 0.3 * torch.randn(shape, generator=generator)
        found[name] = 1.0 + drawn if name.endswith("LayerNorm.weight") else drawn
    return found


def write(folder: Path) -> Path:
    """The files of llm-blender/PairRM-hf that matter, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config()), "utf-8")
    save_file(weights(), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer().save(str(folder / "tokenizer.json"))
    special = {"bos_token": "[CLS]", "cls_token": "[CLS]", "eos_token": "[SEP]", "sep_token": "[SEP]"}
    special |= {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    settings = {**special, "tokenizer_class": "DebertaV2Tokenizer", "model_max_length": 10**30}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return folder
