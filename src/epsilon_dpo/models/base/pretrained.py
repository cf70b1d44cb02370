"""A pretrained language model, from the Hub at a pinned commit or from a local folder in the same form.

Only configurations, tokenizer files and safetensors are read: no pickle, no code of the repository.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from epsilon_dpo.models.base.gemma_template import END_OF_TURN, START_OF_TURN, TEMPLATE
from epsilon_dpo.models.base.params import PretrainedModel
from epsilon_dpo.pipeline.hub.download import hub_folder
from epsilon_dpo.pipeline.observability.errors import UserError, first_line

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PATTERNS = ["*.json", "*.safetensors", "tokenizer.model", "chat_template.jinja"]


def load_pretrained(params: PretrainedModel) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in `dtype`, and its tokenizer with the chosen chat template and with `stop_token` as eos token.

    The tokenizer's own pad token is kept. One without is refused: padding with the stop token would hide it wherever
    pads are left out by id, and which other token is free to be sacrificed is not for this function to guess.

    Raises:
        UserError: folder or files missing, Hub failures (hub/download.py), an architecture that transformers does not
            know, no chat template, no pad token, a stop token that is not one token.
    """
    folder = _folder(params)
    tokenizer = load_tokenizer(folder, params)
    model = _load_weights(folder, params)
    embeddings = int(model.config.get_text_config().vocab_size)
    if len(tokenizer) > embeddings:
        raise UserError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {embeddings} embeddings; they do not "
            "belong together."
        )
    return model, tokenizer


def _load_weights(folder: Path, params: PretrainedModel) -> PreTrainedModel:
    """The model, all of it from the files: transformers would fill a gap with random weights and only log it."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            trust_remote_code=False,
            dtype=getattr(torch, params.dtype),
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"The weights in {folder} cannot be loaded: {first_line(error)}.") from None
    model, found = loaded
    gaps = sorted([*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])])
    if gaps:
        raise UserError(
            f"The weights in {folder} lack {gaps[0]} in the shape that its config.json calls for ({len(gaps)} such); "
            "copy the model again."
        )
    return model


def load_tokenizer(folder: Path, params: PretrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, ready for every later stage; raises as `load_pretrained`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"The tokenizer in {folder} cannot be loaded: {first_line(error)}.") from None
    if params.chat_template == "gemma":
        for token in (START_OF_TURN, END_OF_TURN):
            _require_one_token(tokenizer, token, folder, "base.chat_template = gemma")
        tokenizer.chat_template = TEMPLATE
    elif not tokenizer.chat_template:
        raise UserError(
            f"The tokenizer in {folder} has no chat template of its own; set base.chat_template to gemma (if its "
            "vocabulary has Gemma's turn tokens) or use an instruction-tuned model."
        )
    _require_one_token(tokenizer, params.stop_token, folder, f"base.stop_token = {params.stop_token!r}")
    tokenizer.eos_token = params.stop_token
    if tokenizer.pad_token is None:
        raise UserError(
            f'The tokenizer in {folder} has no pad token; name an unused token of its vocabulary as "pad_token" in the '
            "tokenizer_config.json of a local copy, and set base.path to that."
        )
    return tokenizer


def load_tokenizer_alone(params: PretrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer as `load_pretrained` makes it ready, without a look at, or a download of, the weights."""
    if params.revision is None:
        return load_tokenizer(Path(params.path), params)
    patterns = [pattern for pattern in PATTERNS if not pattern.endswith(".safetensors")]
    return load_tokenizer(hub_folder(params.path, params.revision, patterns), params)


def _folder(params: PretrainedModel) -> Path:
    """Where the files are, complete: a revision means the Hub, its absence a local folder."""
    if params.revision is not None:
        folder, place = hub_folder(params.path, params.revision, PATTERNS), f"{params.path} at {params.revision[:8]}"
    else:
        folder, place = Path(params.path), params.path
        if not folder.is_dir():
            raise UserError(
                f"base.path = {params.path} is not a folder; for a model on the Hub set base.revision to a commit (its "
                "40 hexadecimal digits), for a local one the path relative to the project's root."
            )
    if not (folder / "config.json").is_file():
        raise UserError(f"{place} holds no config.json; it must hold a model as `save_pretrained` writes it.")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise UserError(f"{place} holds no tokenizer (tokenizer.json or tokenizer.model); put it beside config.json.")
    missing = [name for name in _weight_files(folder) if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{place} holds no {missing[0]}; only safetensors are read, so convert other weights with "
            "`save_pretrained`."
        )
    return folder


def _weight_files(folder: Path) -> list[str]:
    """The safetensors that must be there: one file, or the shards that an index names."""
    index = folder / INDEX
    return sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values())) if index.is_file() else [WEIGHTS]


def _require_one_token(tokenizer: PreTrainedTokenizerBase, token: str, folder: Path, reason: str) -> None:
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or token not in tokenizer.get_vocab():
        raise UserError(f"{reason} does not fit: {token!r} is not one token of the vocabulary in {folder}.")
