"""Loading a tokenizer without loading torch.

`transformers.AutoTokenizer` imports torch (2.8 s a process, measured) and may rebuild a tokenizer from its vocabulary
by class; `PreTrainedTokenizerFast` takes 0.6 s and reads tokenizer.json as it is, together with the folder's special
tokens and chat template.
"""

from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from epsilon_dpo.pipeline.observability.errors import UserError


def special_tokens_by_id(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The texts, by id, that `tokenizer` reads as a special token wherever they occur, and decodes to nothing.

    `all_special_tokens` alone lacks the template's own, such as Llama 3's <|start_header_id|>.
    """
    flagged = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    return flagged | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def answer_head(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template writes between its generation prompt and every answer: Qwen 3's empty <think>, say.

    A policy is trained to write it, since it begins each answer of the data as ids; their texts do not have it.
    """
    dialogue = [{"role": "user", "content": "731?"}, {"role": "assistant", "content": "It is 732."}]
    prompt = str(tokenizer.apply_chat_template(dialogue[:1], add_generation_prompt=True, tokenize=False))
    text = str(tokenizer.apply_chat_template(dialogue, tokenize=False))
    return text[len(prompt) : text.rfind(dialogue[1]["content"])] if text.startswith(prompt) else ""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in `folder`, as `save_pretrained` of any fast tokenizer writes it.

    Raises:
        UserError: no tokenizer.json, no chat template, or no eos token.
    """
    if not (folder / "tokenizer.json").is_file():
        raise UserError(
            f"{folder} holds no tokenizer.json; save the tokenizer with its `save_pretrained` (fast version)."
        )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        folder,
        trust_remote_code=False,
        local_files_only=True,  # stays in tokenizer_config.json, where HF_HUB_OFFLINE would set it otherwise
    )
    for attribute in ("chat_template", "eos_token"):
        if not getattr(tokenizer, attribute):
            raise UserError(f"The tokenizer in {folder} has no {attribute}; pairs cannot be rendered without it.")
    return tokenizer
