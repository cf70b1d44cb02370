"""`sft: null`: no training, the base model is the reference policy as it is, such as an instruct model.

The files are copied, byte for byte: every later stage then finds in out/sft/model what it always finds there. DVC's
cache holds the two equal files once; whether the copy in out/ takes room of its own is decided by `dvc config
cache.type`.
"""

import shutil
from pathlib import Path

from transformers import AutoConfig

from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.data.tokens.positions import require_positions
from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl


def take_given(base: Path, tokens: Tokens, out: Path) -> dict[str, float]:
    """Write model/ (the files of `base`/model and `base`/tokenizer), an empty metrics.jsonl and metrics.json to `out`.

    Returns:
        the content of metrics.json: `steps`, 0.

    Raises:
        UserError: the model has fewer positions than `tokens.max_length`.
    """
    require_positions(
        AutoConfig.from_pretrained(base / "model", trust_remote_code=False), "tokens.max_length", tokens.max_length
    )
    (out / "model").mkdir()
    for part in ("model", "tokenizer"):
        for file in sorted((base / part).iterdir()):
            shutil.copyfile(file, out / "model" / file.name)  # not its mode: DVC's cache may protect the original
    metrics: dict[str, float] = {"steps": 0}
    write_jsonl(out / "metrics.jsonl", [])
    write_json(out / "metrics.json", metrics)
    return metrics
