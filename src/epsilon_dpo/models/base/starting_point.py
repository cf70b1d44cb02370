"""The model that SFT starts from: `base.source` in params.yaml decides whether it is built or loaded."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from epsilon_dpo.models.base.embedded import build_model, texts_of, train_tokenizer
from epsilon_dpo.models.base.params import EmbeddedModel, PretrainedModel
from epsilon_dpo.models.base.pretrained import load_pretrained
from epsilon_dpo.pipeline.stage.files import read_jsonl


def starting_point(
    params: EmbeddedModel | PretrainedModel, train_file: Path, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer; the embedded tokenizer is trained on the dialogues in `train_file`."""
    if isinstance(params, PretrainedModel):
        return load_pretrained(params)
    tokenizer = train_tokenizer(texts_of(read_jsonl(train_file)), params)
    return build_model(params, tokenizer, seed), tokenizer
