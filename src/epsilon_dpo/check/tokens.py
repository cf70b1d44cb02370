"""Whether a pretrained model's vocabulary has the tokens that params.yaml names, where its tokenizer is at hand.

Asked of its JSON files alone: transformers takes seconds to import. So this refuses only what no file of the tokenizer
mentions; stage base has the tokenizer itself and says what else does not fit.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from epsilon_dpo.models.base.params import PretrainedModel
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json

VOCABULARY = "tokenizer.json"
BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")  # transformers adds what these name


def file_of(model: PretrainedModel, name: str) -> Path:
    """Where the file `name` of `model` is, or would be; of one on the Hub in its cache."""
    if model.revision is not None:
        from epsilon_dpo.pipeline.hub.download import cached_file  # imported where it is asked: it takes 0.3 s

        return cached_file(model.path, name, model.revision) or Path(model.path, name)
    return Path(model.path, name)


def require_tokens(model: PretrainedModel, where: str, path: Path) -> None:
    """
    Args:
        where: the block of `path` that has `model`.

    Raises:
        UserError: `stop_token` or `pad_token` is in none of the files.
    """
    file = file_of(model, VOCABULARY)
    try:
        content = read_json(file)
        special = {token["content"] for token in content["added_tokens"]}
        vocabulary = content["model"]["vocab"]  # of Unigram a list of tokens with scores
        known = special.union(vocabulary if isinstance(vocabulary, dict) else (token for token, _ in vocabulary))
        for name in BESIDE:
            if (beside := file_of(model, name)).is_file():
                known.update(_texts(read_json(beside)))
    except (OSError, ValueError, KeyError, TypeError):  # absent, or damaged
        return
    for key in ("stop_token", "pad_token"):
        token = getattr(model, key)
        if token is not None and token not in known:
            near = difflib.get_close_matches(token, sorted(special), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "choose one that it has."
            raise UserError(f"{path}: {where}.{key} = {token!r} is no token of the vocabulary in {file}; {hint}")


def _texts(content: Any) -> Iterator[str]:
    """All keys and texts in it."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from _texts(value)
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value)
