"""Reading a PairRM folder, in the layout of llm-blender/PairRM-hf or of the original llm-blender/PairRM."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import DebertaV2Config, PreTrainedTokenizerFast

from epsilon_dpo.judging.judges.pairrm import PairRM
from epsilon_dpo.pipeline.observability.errors import UserError, first_line, lacks_memory
from epsilon_dpo.pipeline.stage.files import read_json

# Never the *.bin files beside them: they are pickles.
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
BACKBONE = "microsoft/deberta-v3-large"
VOCABULARY = 128005  # PairRM's: DeBERTa-v3's 128000 pieces, [MASK] and the four markers
# What llm-blender/PairRM-hf's config.json says of the backbone. The original repository's names it only, and read as a
# Hub config it would give the defaults of DeBERTa-v1.
DEBERTA_V3_LARGE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "pooler_hidden_size": 1024,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-7,
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
}
NOT_ARCHITECTURE = ("architectures", "torch_dtype", "dtype", "transformers_version")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer.json of `folder` as it is.

    Not by AutoTokenizer or DebertaV2Tokenizer: those of transformers 5 rebuild it without its normaliser, after which
    "…", "½", no-break and zero-width spaces have other ids and answers with them other scores.

    Raises:
        UserError: there is none, it is damaged, or it was rebuilt so and saved.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            f"{folder} has no tokenizer.json, which a PairRM folder needs; use a copy of llm-blender/PairRM-hf."
        )
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # of damaged files the library raises whatever its next line stumbles over
        if lacks_memory(error):
            raise
        raise UserError(
            f"The tokenizer in {folder} cannot be loaded ({first_line(error)}); use a copy of llm-blender/PairRM-hf."
        ) from None
    if len(tokenizer) == VOCABULARY and "Precompiled" not in repr(tokenizer.backend_tokenizer.normalizer):
        raise UserError(
            f"{path} has lost PairRM's normaliser (transformers 5's AutoTokenizer rebuilds it); use the file of "
            "llm-blender/PairRM-hf as it is."
        )
    return tokenizer


def load_model(folder: Path, marker_ids: tuple[int, int, int]) -> PairRM:
    """The weights of `folder`, every key in its place.

    Raises:
        UserError: config.json is no PairRM-hf config, or the weights are absent, pickled only, damaged or of another
            model.
    """
    config = architecture(folder)
    weights = weights_file(folder)
    try:
        model = PairRM(DebertaV2Config(**config), marker_ids)
    except Exception as error:  # of values of a wrong type transformers and torch raise whatever stumbles first
        if lacks_memory(error):
            raise
        raise UserError(
            f"{folder / 'config.json'} describes no PairRM ({first_line(error)}); use a copy of llm-blender/PairRM-hf."
        ) from None
    try:
        model.load_state_dict(load_file(weights), strict=True)
    except (SafetensorError, RuntimeError) as error:
        if lacks_memory(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{weights} does not fit {folder / 'config.json'} as a PairRM: {reason}") from None
    return model


def weights_file(folder: Path) -> Path:
    """The safetensors file of `folder`.

    Raises:
        UserError: it is absent, whatever pickled weights there are beside it.
    """
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise UserError(
            f"{folder} has no model.safetensors; other weight files are pickles, which can run code when read and are "
            "never opened here: use the safetensors file of llm-blender/PairRM-hf."
        )
    return weights


def architecture(folder: Path) -> dict[str, Any]:
    """The DeBERTa-v2 fields of `folder`'s config.json, with PairRM's n_tasks and drop_out.

    Raises:
        UserError: it is absent, damaged or the config of something else.
    """
    path = folder / "config.json"
    try:
        config = read_json(path) if path.is_file() else None
    except ValueError:
        config = None
    if not isinstance(config, dict):
        config = {}
    if config.get("ranker_type") == "pairranker" and config.get("model_name") == BACKBONE:
        return {**DEBERTA_V3_LARGE, "n_tasks": config.get("n_tasks", 1), "drop_out": config.get("drop_out", 0.05)}
    if config.get("model_type") != "deberta-v2":
        raise UserError(
            f"{path} is the config of neither llm-blender/PairRM-hf (model_type deberta-v2) nor llm-blender/PairRM "
            f"(ranker_type pairranker on {BACKBONE}); use a copy of one of them."
        )
    kept = {key: value for key, value in config.items() if key not in NOT_ARCHITECTURE}
    return {"n_tasks": 1, "drop_out": 0.05, **kept}
