"""The rows of HH's own files."""

from pathlib import Path

from epsilon_dpo.data.sources.hh import SUFFIX, read_hh
from epsilon_dpo.data.sources.params import HHSource
from epsilon_dpo.pipeline.stage.files import Row


def hh_rows(folder: Path, split: str) -> list[Row]:
    """Of all subsets in `folder` that have a file of `split`."""
    subsets = sorted(file.parent.name for file in folder.glob(f"*/{split}{SUFFIX}"))
    if not subsets:
        raise SystemExit(f"{folder} has no */{split}{SUFFIX}; name the folder of HH's subsets")
    config = {"repo": None, "revision": None, "eval_share": 0.5, "max_train_pairs": None, "max_eval_pairs": None}
    files = {"folder": str(folder), "subsets": subsets, "train_split": split, "eval_split": split}
    data = read_hh(HHSource(source="hh", **files, **config), seed=0)
    return [*data.train, *data.eval]
