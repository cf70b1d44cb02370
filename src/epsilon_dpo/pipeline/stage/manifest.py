"""What a model folder says of itself wherever it is copied: manifest.json, beside the weights.

It is part of what DVC hashes, so it follows from the stage's declared params and data alone, and two rules keep a stage
that ran again and wrote the same weights from running everything after it again:

    of the code there is nothing in it, so that a comment changes no manifest;
    of the data there are the files that the weights were made of, and no folders: a page of the data contract that
    looks another way must not train again.

Params are in it as declared, but for NOT_IN_THE_WEIGHTS: another value of one is another origin, even where it gives
the same bytes, and its consumers run again. An absolute path is cut to its last part.

`digest` leaves the file out: a policy's sha256 identifies what the policy does, not where it comes from.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Json, read_json, write_json
from epsilon_dpo.pipeline.stage.fingerprint import MANIFEST, file_digest

ADAPTER_CONFIG = "adapter_config.json"  # peft's name
WEIGHTS = "*.safetensors"
NOT_IN_THE_WEIGHTS = {"save_steps"}  # when something is kept


def write_manifest(
    folder: Path,
    name: str,
    params: Json,
    read: Iterable[Path] = (),
    dataset: Path | None = None,
    start: Path | None = None,
    **facts: Any,
) -> None:
    """Write manifest.json into `folder`, if there are weights in it: a judge behind an endpoint has none.

    Args:
        name: of the stage, and its run: align@dpo.
        params: the declared ones, by dotted key.
        read: the files that the weights were made of, relative to the project's root.
        dataset: the facts of the dataset that they belong to: a dataset.json.
        start: the folder of the model whose weights these began as; its manifest stands in this one.
        facts: what else says which model this is; no time, no place, nothing that a declared input does not decide.
    """
    weights = weights_digests(folder)
    if not weights:
        return
    stage, _, run = name.partition("@")
    content: Json = {
        "stage": stage,
        "run": run or None,
        "params": portable(params),
        "read_md5": {str(path): file_md5(path) for path in read},
        "dataset": None if dataset is None or not dataset.exists() else read_json(dataset),
        "weights_sha256": weights,
        "start": None if start is None else read_manifest(start) or {"weights_sha256": weights_digests(start)},
    }
    write_json(folder / MANIFEST, content | facts)


def read_manifest(folder: Path) -> Json | None:
    """What `folder` says of itself; None if it says nothing, as what other programs wrote, an older version, or damage.

    Raises:
        ValueError: its manifest is no JSON.
    """
    path = folder / MANIFEST
    return manifest_of(path) if path.is_file() else None


def manifest_of(file: Path) -> Json | None:
    """What `file` says; None as of read_manifest.

    Raises:
        ValueError: it is no JSON.
    """
    found = read_json(file)
    return found if isinstance(found, dict) and _has_types(found) else None


def _has_types(said: Json) -> bool:
    """Whether what readers of a manifest use is there, and of its type."""
    weights = said.get("weights_sha256")
    return (
        isinstance(said.get("stage"), str)
        and "run" in said
        and isinstance(said["run"], str | None)
        and isinstance(said.get("params"), dict)
        and isinstance(weights, dict)
        and all(isinstance(sha256, str) for sha256 in weights.values())
    )


def weights_digests(folder: Path, remember: bool = True) -> dict[str, str]:
    """sha256 of each file of weights in `folder`, by name; `remember` as of file_digest."""
    return {file.name: file_digest(file, remember) for file in sorted(folder.glob(WEIGHTS))}


def file_md5(path: Path) -> str:
    """As DVC records it for a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def is_adapter(folder: Path) -> bool:
    """Whether the model in `folder` needs a base; said without torch."""
    return (folder / ADAPTER_CONFIG).is_file()


def refuse_adapter_beside(folder: Path) -> None:
    """Raises: UserError: the weights in `folder` have an adapter beside them."""
    if (folder / ADAPTER_CONFIG).exists():
        raise UserError(
            f"{folder} holds an {ADAPTER_CONFIG}: transformers would put that adapter on the weights, and no longer "
            "see what they lack; merge it (peft's merge_and_unload), or remove the file from a local copy."
        )


def portable(value: Any) -> Any:
    """Params without what names a place on this machine, and without NOT_IN_THE_WEIGHTS."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items() if key not in NOT_IN_THE_WEIGHTS}
    if isinstance(value, list):
        return [portable(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
