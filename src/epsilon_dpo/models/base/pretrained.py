"""A pretrained language model, from the Hub at a pinned commit or from a local folder in the same form.

Only configurations, tokenizer files and safetensors are read: no pickle, no code of the repository.
"""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from epsilon_dpo.models.base.gemma_template import END_OF_TURN, START_OF_TURN, TEMPLATE
from epsilon_dpo.models.base.params import PretrainedModel
from epsilon_dpo.models.base.template import faults, freeze
from epsilon_dpo.models.base.weight_files import INDEX, WEIGHTS, weight_files
from epsilon_dpo.pipeline.hub.download import hub_folder
from epsilon_dpo.pipeline.observability.errors import UserError, first_line, lacks_memory, memory_in_a_sentence
from epsilon_dpo.pipeline.stage.files import Json, read_json
from epsilon_dpo.pipeline.stage.manifest import refuse_adapter_beside

UNUSED = re.compile(r"(?i)<.*(pad|reserved|unused).*>")
BUT_WEIGHTS = ["*.json", "tokenizer.model", "chat_template.jinja"]


def load_pretrained(params: PretrainedModel, where: str = "base") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in `dtype`, and its tokenizer with the chosen chat template, frozen, and `stop_token` as eos token.

    The tokenizer's own pad token is kept. One without is refused unless `pad_token` names one: which token of a
    vocabulary no text uses is not for this function to guess.

    Args:
        where: the block of params.yaml, which the sentences name.

    Raises:
        UserError: folder or files missing, Hub failures (hub/download.py), an architecture that transformers does not
            know, quantised weights, an adapter, no chat template or one with a fault (template.py), no pad token, a
            stop or pad token that is not one token, tokens without embeddings, too little memory.
    """
    folder = _folder(params, where)
    with memory_in_a_sentence(f"the model in {folder}"):
        tokenizer = load_tokenizer(folder, params, where)
        model = _load_weights(folder, params)
    _require_embeddings(tokenizer, int(model.config.get_text_config().vocab_size), folder)
    return model, tokenizer


def _require_embeddings(tokenizer: PreTrainedTokenizerBase, embeddings: int, folder: Path) -> None:
    """More embeddings than tokens are common (padded to a round number); fewer are right only if no text needs them.

    Gemma 3's tokenizer is also that of its models that read images: their token for one has no embedding in the others.
    The contract lets no text with a special token through.
    """
    beyond = sorted(token for token, id_ in tokenizer.get_vocab().items() if id_ >= embeddings)
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    if needed := [token for token in beyond if token not in special or token in used]:
        raise UserError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {embeddings} embeddings; they do not "
            f"belong together: there is none for {needed[0]!r}; use the tokenizer that was saved with the weights."
        )


def _config(folder: Path) -> Json:
    """The model's config.json."""
    try:
        config = read_json(folder / "config.json")
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'} is no configuration of a model; copy the model again.")
    return config


def _load_weights(folder: Path, params: PretrainedModel) -> PreTrainedModel:
    """The model, all of it from the files: transformers would fill a gap with random weights and only log it."""
    refuse_adapter_beside(folder)
    if quantised := _config(folder).get("quantization_config"):
        method = quantised.get("quant_method", "an unknown method") if isinstance(quantised, dict) else quantised
        raise UserError(
            f"The weights in {folder} are quantised ({method}) and cannot be trained; use the model in float32 or "
            "bfloat16 (sft.lora.quantise and align.lora.quantise quantise it while training)."
        )
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
    except Exception as error:  # of damaged files the library raises whatever its next line stumbles over
        if lacks_memory(error):
            raise
        raise UserError(f"The weights in {folder} cannot be loaded: {first_line(error)}.") from None
    model, found = loaded
    text = model.config.get_text_config()
    if text.num_hidden_layers < 1:  # the layers of the file would be left out, and only logged
        raise UserError(f"{folder / 'config.json'} describes a model without layers; copy the model again.")
    gaps = sorted([*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])])
    if gaps:
        raise UserError(
            f"The weights in {folder} lack {gaps[0]} in the shape that its config.json calls for ({len(gaps)} such); "
            "copy the model again."
        )
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if text.tie_word_embeddings and not tied:  # programs differ in which of the two they believe
        raise UserError(
            f"The weights in {folder} have an output projection of their own although config.json ties it to the "
            "embeddings; set tie_word_embeddings to false in the config.json of a local copy."
        )
    return model if text is model.config else _text_part(model, folder)


def _text_part(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The language model of one that also sees images (Gemma 3 of 4B and more), its weights and no others.

    A training on texts gives an image tower no gradient, and LoRA would adapt projections of its own there that have
    the same names.

    Raises:
        UserError: transformers has no language model of the same layers.
    """
    config, decoder, head = model.config.get_text_config(), model.get_decoder(), model.get_output_embeddings()
    config.tie_word_embeddings = head.weight is model.get_input_embeddings().weight
    try:
        with torch.device("meta"):
            text: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=model.dtype, trust_remote_code=False)
        fits = type(text.base_model) is type(decoder)
    except ValueError:
        fits = False
    if not fits:
        raise UserError(
            f"The model in {folder} is multimodal, and transformers has no causal language model of its text part "
            f"alone ({type(decoder).__name__}); choose a text-only model."
        )
    setattr(text, text.base_model_prefix, decoder)
    text.set_output_embeddings(head)
    return text


def load_tokenizer(folder: Path, params: PretrainedModel, where: str = "base") -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, ready for every later stage; raises as `load_pretrained`.

    tokenizer.json is taken as it is: `AutoTokenizer` builds normaliser and pre-tokenizer anew by the class that the
    configuration names, and gives other ids where the published file differs from that class (Llama 2's, for one).
    """
    published = (folder / "tokenizer.json").is_file()
    loader: Any = PreTrainedTokenizerFast if published else AutoTokenizer
    try:
        tokenizer = loader.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # of damaged files the library raises whatever its next line stumbles over
        if lacks_memory(error):
            raise
        raise UserError(f"The tokenizer in {folder} cannot be loaded: {first_line(error)}.") from None
    _require_one_token(tokenizer, params.stop_token, folder, f"{where}.stop_token = {params.stop_token!r}")
    _set_template(tokenizer, folder, params, where)
    tokenizer.eos_token = params.stop_token
    if params.pad_token is not None:
        _require_one_token(tokenizer, params.pad_token, folder, f"{where}.pad_token = {params.pad_token!r}")
        tokenizer.pad_token = params.pad_token
    elif tokenizer.pad_token is None:
        unused = [token for token in sorted(tokenizer.get_vocab()) if UNUSED.search(token)]
        raise UserError(
            f"The tokenizer in {folder} has no pad token; set {where}.pad_token to a token that no text uses, such as "
            f"{unused[0] if unused else params.stop_token} (padding is told from text by its place, never by its id)."
        )
    if fault := next(faults(tokenizer), None):
        raise _template_error(folder, fault, params, where)
    return tokenizer


def _set_template(tokenizer: PreTrainedTokenizerBase, folder: Path, params: PretrainedModel, where: str) -> None:
    template = tokenizer.chat_template
    if params.chat_template == "gemma":
        for token in (START_OF_TURN, END_OF_TURN):
            _require_one_token(tokenizer, token, folder, f"{where}.chat_template = gemma")
        template = TEMPLATE
    elif isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise UserError(
            f"The tokenizer in {folder} has no chat template of its own; set {where}.chat_template to gemma (if its "
            "vocabulary has Gemma's turn tokens), put a chat_template.jinja into a local copy, or use an "
            "instruction-tuned model."
        )
    if params.bos == "prepend" and tokenizer.bos_token is None:
        raise UserError(f"The tokenizer in {folder} has no BOS token to begin with; set {where}.bos to template.")
    try:
        frozen = freeze(str(template), tokenizer.eos_token, params.stop_token, params.bos == "prepend")
    except UserError as fault:
        raise _template_error(folder, str(fault), params, where) from None
    tokenizer.chat_template = frozen


def _template_error(folder: Path, fault: str, params: PretrainedModel, where: str) -> UserError:
    """A sentence about a fault of template.py, with what to do."""
    remedy = f"fix chat_template.jinja in a local copy of the model and set {where}.path to that"
    if "writes no BOS" in fault:
        remedy = f"set {where}.bos to prepend"
    elif "BOS tokens" in fault and params.bos == "prepend":
        remedy = f"set {where}.bos to template"
    elif "not with the stop token" in fault:
        remedy = f"set {where}.stop_token to the token that ends its turns"
    return UserError(f"The chat template of the tokenizer in {folder} has a fault: {fault}; {remedy}.")


def load_tokenizer_alone(params: PretrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer as `load_pretrained` makes it ready, without a look at, or a download of, the weights."""
    if params.revision is None:
        return load_tokenizer(Path(params.path), params)
    return load_tokenizer(_from_hub(params.path, params.revision, weights=False), params)


def _from_hub(path: str, revision: str, weights: bool) -> Path:
    """Where the files are; weights are fetched only if they are read: Mistral's repositories hold them once more as
    consolidated*.safetensors, others in folders, and some in shards beside WEIGHTS."""
    wanted = [*BUT_WEIGHTS, WEIGHTS] if weights else BUT_WEIGHTS
    folder, also = hub_folder(path, revision, wanted), list[str]()
    if (folder / "vocab.json").is_file() and not (folder / "tokenizer.json").is_file():
        also.append("merges.txt")  # which an older BPE tokenizer consists of, too
    if weights:
        also += (name for name in weight_files(folder) if name != WEIGHTS)
    return hub_folder(path, revision, [*wanted, *also]) if also else folder


def _folder(params: PretrainedModel, where: str) -> Path:
    """Where the files are, complete: a revision means the Hub, its absence a local folder."""
    if params.revision is not None:
        folder, place = _from_hub(params.path, params.revision, weights=True), f"{params.path} at {params.revision[:8]}"
    else:
        folder, place = Path(params.path), params.path
        if not folder.is_dir():
            raise UserError(
                f"{where}.path = {params.path} is not a folder; for a model on the Hub set {where}.revision to a "
                "commit (its 40 hexadecimal digits), for a local one the path relative to the project's root."
            )
    if not (folder / "config.json").is_file():
        raise UserError(f"{place} holds no config.json; it must hold a model as `save_pretrained` writes it.")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise UserError(f"{place} holds no tokenizer (tokenizer.json or tokenizer.model); put it beside config.json.")
    missing = [name for name in weight_files(folder) if not (folder / name).is_file()]
    if missing:
        remedy = "only safetensors are read, so convert other weights with `save_pretrained`"
        if params.revision is not None:
            remedy += ", or download it anew if the Hub's cache holds a part of it"
        elif (folder / INDEX).is_file():
            remedy = "copy the model again"
        raise UserError(f"{place} holds no {missing[0]}; {remedy}.")
    return folder


def _require_one_token(tokenizer: PreTrainedTokenizerBase, token: str, folder: Path, reason: str) -> None:
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or token not in tokenizer.get_vocab():
        raise UserError(f"{reason} does not fit: {token!r} is not one token of the vocabulary in {folder}.")
