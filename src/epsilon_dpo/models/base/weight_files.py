"""Which files of a folder in `save_pretrained`'s form hold its weights."""

import json
from pathlib import Path

from epsilon_dpo.pipeline.observability.errors import UserError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[str]:
    """The names of the safetensors that transformers reads: one file, or else the shards that an index names.

    Raises:
        UserError: the index is damaged, or names what does not lie beside it.
    """
    index = folder / INDEX
    if (folder / WEIGHTS).is_file() or not index.is_file():
        return [WEIGHTS]
    try:
        names = sorted({str(name) for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index} is no index of safetensors; copy the model again.") from None
    if elsewhere := [name for name in names if Path(name).name != name]:
        raise UserError(f"{index} names {elsewhere[0]!r}, which is no file beside it; copy the model again.")
    return names
