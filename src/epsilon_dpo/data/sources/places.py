"""Where the files of a dataset lie and which splits they make: `datasets` says, as `load_dataset` would.

A folder's files belong to splits by their names, or as its README says (configurations, patterns). Of a Hub repository
the same is asked of a folder of empty files with its names, so that only the files of the wanted splits are downloaded.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from glob import has_magic
from itertools import chain, pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from epsilon_dpo.data.sources.formats import DataFile, count_rows, format_of
from epsilon_dpo.data.sources.params import DatasetSource
from epsilon_dpo.data.sources.watched import refuse_outside, refuse_unwatched_within, what_is_there
from epsilon_dpo.pipeline.hub.download import hub_file, hub_names
from epsilon_dpo.pipeline.observability.errors import UserError, first_line
from epsilon_dpo.pipeline.stage.files import read_json

READABLE = "json, jsonl, csv, tsv (also .gz, .bz2, .xz, .zst), parquet and arrow"

# Files of a folder data/ that are called so make the split that the name begins with, and `datasets` takes no others.
SHARD = re.compile(r"data/.+-\d{5}-of-\d{5}.*")

# By a README's head; RuntimeError: a loading script lies beside the data, which `datasets` no longer runs.
UNREADABLE = (ValueError, OSError, TypeError, AttributeError, LookupError, RuntimeError, yaml.YAMLError)


@dataclass(frozen=True)
class Place:
    """A dataset's files.

    Attributes:
        splits: names of files by split.
        file: the file of a name, downloaded if need be.
    """

    shown: str
    splits: dict[str, list[str]]
    file: Callable[[str], DataFile]

    def parts(self, spec: str, key: str) -> Iterator[tuple[DataFile, int, int | None]]:
        """(file, first row, row after the last) for each file that the split `spec` reads from; None: to its end.

        Args:
            spec: as `datasets` writes splits: train, train[:5%], train[100:200]+test.
            key: of `spec` in params.yaml, or the option of a command, for messages.

        Raises:
            UserError: there is no such split, or `spec` is none.
        """
        names = split_names(spec)
        unknown = next((name for name in names if name not in self.splits), None)
        if unknown is not None:
            there = ", ".join(sorted(self.splits)) or "none"
            raise UserError(f"{self.shown} has no split {unknown!r} ({key}); its splits are {there}.")
        if "[" in spec:
            yield from self._sliced(spec, key)
            return
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{_asked(key, spec)} reads the split {twice} twice; name it once.")
        for file in chain.from_iterable(self.splits[name] for name in names):
            yield self.file(file), 0, None

    def _sliced(self, spec: str, key: str) -> Iterator[tuple[DataFile, int, int]]:
        """The parts of a `spec` with slices, for which the rows of each file are counted."""
        from datasets import ReadInstruction

        files = {name: [self.file(file) for file in self.splits[name]] for name in split_names(spec)}
        counted = {name: [(file, count_rows(file)) for file in of_split] for name, of_split in files.items()}
        try:
            found = ReadInstruction.from_spec(spec).to_absolute(
                {name: sum(rows for _, rows in of_split) for name, of_split in counted.items()}
            )
        except (ValueError, AssertionError) as error:
            raise UserError(f"{_asked(key, spec)} is no split: {first_line(error)}.") from None
        slices = [(part.splitname, part.from_, part.to) for part in found]
        for (name, _, end), (after, start, _) in pairwise(sorted(slices)):
            if name == after and start < end:
                raise UserError(f"{_asked(key, spec)} reads rows of the split {name} twice; avoid overlap.")
        for name, first, last in slices:
            before = 0
            for file, rows in counted[name]:
                if first < before + rows and last > before:
                    yield file, max(first - before, 0), min(last - before, rows)
                before += rows


def _asked(key: str, spec: str) -> str:
    """`spec` in a message, and where it was given."""
    return f"{key} {spec!r}" if key.startswith("--") else f"params.yaml: {key} = {spec!r}"


def split_names(spec: str) -> list[str]:
    """The splits that `spec` reads from: train and test of train[:5%]+test."""
    return [part.split("[")[0].strip() for part in spec.split("+")]


def locate(source: DatasetSource, scratch: Path) -> Place:
    """The files of `source`, none of them read or downloaded yet.

    Args:
        scratch: a folder for what `datasets` writes, its cache among it; nothing of it is left elsewhere.

    Raises:
        UserError: nothing is there, it is not below data/, or it cannot be told which files make which split.
    """
    if source.revision is not None:
        return _on_the_hub(source, source.revision, scratch)
    path = Path(source.path)
    refuse_outside(path)
    try:
        matches = sorted(Path().glob(source.path))
        files = [path] if path.is_file() else [match for match in matches if match.is_file()]
    except PermissionError:
        raise UserError(f"{source.path} may not be read; change its permissions.") from None
    except (ValueError, OSError) as error:  # "**x" is no pattern, 300 characters are no name
        raise UserError(f"params.yaml: fetch.path = {source.path!r} is no path: {first_line(error)}.") from None
    refuse_unwatched_within(path)
    if path.is_dir():
        splits = _saved_to_disk(path) or _splits(path, source, source.path, scratch)
        for name in chain.from_iterable(splits.values()):
            refuse_outside(path / name)
            refuse_unwatched_within(path / name)  # a README may name files in a hidden folder
        return Place(source.path, splits, lambda name: DataFile(path / name, str(path / name), name))
    for match in matches:
        if match.is_symlink() and not match.exists() and not match.name.startswith("."):
            refuse_unwatched_within(match)  # its file is gone, and the others would be read without it
    if files and source.name is not None:
        raise UserError(
            f"fetch.name = {source.name!r} names a configuration, and {source.path} is files, which have none; set it "
            "to null, or let fetch.path be their folder."
        )
    if files:
        return _files(files)
    folder = next(parent for parent in path.parents if parent.is_dir())
    raise UserError(f"{source.path} does not exist (fetch.path); {folder}/ holds {what_is_there(folder)}.")


def _files(paths: list[Path]) -> Place:
    """Files that were named: one split, train."""
    shown = str(paths[0]) if len(paths) == 1 else f"{paths[0]}, ..."
    for path in paths:
        refuse_unwatched_within(path)
        _refuse_format(path, str(path))
    common = os.path.commonpath([path.parent for path in paths])
    names = {str(path.relative_to(common)): path for path in paths}
    return Place(shown, {"train": list(names)}, lambda name: DataFile(names[name], str(names[name]), name))


def _refuse_format(path: Path, shown: str) -> None:
    if format_of(path) is None:
        raise UserError(f"{shown} has a format that is not read here; {READABLE} are.")


def _saved_to_disk(folder: Path) -> dict[str, list[str]] | None:
    """The splits of a folder that `save_to_disk` wrote; None if it is none."""
    listed = folder / "dataset_dict.json"
    if listed.is_file():
        return {split: _shards(folder / split, f"{split}/") for split in _written(listed, "splits")}
    return {"train": _shards(folder, "")} if (folder / "state.json").is_file() else None


def _shards(folder: Path, prefix: str) -> list[str]:
    names = [prefix + name for name in _written(folder / "state.json", "_data_files", "filename")]
    for name in names:
        _refuse_format(Path(name), f"{folder}/{name}")
    return names


def _written(file: Path, key: str, inner: str | None = None) -> list[str]:
    """The texts of the list `key` of a file of `save_to_disk`, or those that its entries have as `inner`."""
    try:
        entries = read_json(file)[key]
        texts = [entry if inner is None else entry[inner] for entry in entries]
        if isinstance(entries, list) and all(isinstance(text, str) for text in texts):
            return texts
    except FileNotFoundError:
        raise UserError(f"{file} does not exist, so this is no complete `save_to_disk`; save it again.") from None
    except (ValueError, LookupError, TypeError):
        pass
    raise UserError(f"{file} is not what `save_to_disk` writes; save it again.")


def _on_the_hub(source: DatasetSource, revision: str, scratch: Path) -> Place:
    names = hub_names(source.path, revision, "dataset")
    folder = scratch / "repository"
    shutil.rmtree(folder, ignore_errors=True)
    for name in names:
        if _is_data(Path(name)):  # datasets reads dataset_infos.json, and an empty one is no JSON
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    folder.mkdir(parents=True, exist_ok=True)
    if "README.md" in names:
        shutil.copyfile(hub_file(source.path, "README.md", revision, "dataset"), folder / "README.md")
    shown = f"{source.path} at revision {revision[:8]}"

    def download(name: str) -> DataFile:
        return DataFile(hub_file(source.path, name, revision, "dataset"), f"{source.path}/{name}", name)

    return Place(shown, _splits(folder, source, shown, scratch), download)


def _splits(folder: Path, source: DatasetSource, shown: str, scratch: Path) -> dict[str, list[str]]:
    """The files of each split, relative to `folder`, as `datasets` sees them."""
    there = sorted(
        path
        for path in folder.rglob("*")
        if _is_data(path) and not _is_hidden(path.relative_to(folder)) and path.is_file()
    )
    if not there:
        raise UserError(f"{shown} holds no data file; {READABLE} are read.")
    root = folder.resolve()
    if has_magic(str(root)):
        raise UserError(
            f"{shown} cannot be read: its files are looked for by a pattern, and {root} has a character that means "
            "something in one (*, ? or [); rename that folder."
        )
    builder = _builder(root, source, shown, scratch)
    found = (builder.config.data_files or {}).items()
    files = {str(split): [str(Path(file).relative_to(root)) for file in of_split] for split, of_split in found}
    named = [Path(name) for name in chain.from_iterable(files.values())]
    for name in named:
        _refuse_format(name, f"{shown}/{name}")
    if list(builder.builder_configs) in ([], ["default"]):
        says_its_files = any({"data_files", "data_dir"} & {*entry} for entry in _configs(folder))
        within = [path.relative_to(folder) for path in there]
        _refuse_formats(named if says_its_files else within, source, shown)
        if not says_its_files and source.revision is None:  # on the Hub nobody here can rename a file
            _refuse_left_out(within, named, shown)
    return files


def _builder(root: Path, source: DatasetSource, shown: str, scratch: Path) -> Any:
    """What `datasets` would read the folder with. Raises: UserError: it does not take the folder for a dataset."""
    import datasets

    datasets.utils.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)
    _refuse_elsewhere(root, source.name, shown)
    try:
        return datasets.load_dataset_builder(str(root), name=source.name, cache_dir=str(scratch / "datasets"))
    except (*UNREADABLE, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(" ".join(str(error).split("\n")[:2]).split())  # the second line names the configurations
        reason = reason.replace(str(root), shown).split(" with any supported extension")[0].rstrip(".:")
        advice = "; see the head of its README.md" if (root / "README.md").is_file() else ""
        if isinstance(error, RuntimeError):
            advice = "; remove the script, or name the data files with fetch.path"
        raise UserError(
            f"{shown} cannot be read with fetch.name = {source.name or 'null'}: {reason}{advice}."
        ) from None


def _refuse_elsewhere(folder: Path, name: str | None, shown: str) -> None:
    """What the folder's configuration calls its files must be files of the folder: `datasets` would ask any address for
    those of the first configuration, and of the one that is read."""
    from datasets.config import REPOYAML_FILENAME
    from datasets.data_files import sanitize_patterns

    try:
        configs = [entry for entry in _configs(folder) if "data_files" in entry]
        read = [entry for entry in configs if entry.get("config_name") == (name or "default") or entry.get("default")]
        patterns = [sanitize_patterns(entry["data_files"]) for entry in configs[:1] + read]
        named = [str(file) for of_splits in patterns for files in of_splits.values() for file in files]
    except UNREADABLE:
        return  # the library says what is wrong with it
    for file in named:
        if "://" in file or PurePosixPath(file).is_absolute():
            raise UserError(f"{shown} cannot be read: its README.md (or {REPOYAML_FILENAME}) names {file}, not in it.")


def _configs(folder: Path) -> list[Any]:
    """The configurations of the folder: those of its README.md's head, or of .huggingface.yaml, which comes over it."""
    from datasets.config import REPOYAML_FILENAME
    from huggingface_hub import DatasetCard

    head: dict[str, Any] = {}
    if (folder / "README.md").is_file():
        head = DatasetCard.load(folder / "README.md").data.to_dict()
    if (folder / REPOYAML_FILENAME).is_file():
        head |= yaml.safe_load((folder / REPOYAML_FILENAME).read_text("utf-8")) or {}
    return list(head.get("configs") or [])


def _refuse_formats(files: list[Path], source: DatasetSource, shown: str) -> None:
    """Without a README that says which files are meant, `datasets` takes those of one format and drops the others."""
    formats = sorted({str(format_of(path)) for path in files})
    if len(formats) > 1:
        copy, folder = "", shown
        if source.revision is not None:  # there fetch.path is the repository and no glob
            folder = "data/NAME"
            copy = (
                f"copy it (`hf download {source.path} --repo-type dataset --revision {source.revision} --local-dir "
                f"{folder}`), set fetch.revision to null and "
            )
        raise UserError(
            f"{shown} holds files of several formats ({', '.join(formats)}); {copy}move the others away; or name those "
            "to read, which then are the one split train, with fetch.path, such as "
            f"{folder}/{files[0].with_name('*' + files[0].suffix)}."
        )


def _refuse_left_out(files: list[Path], read: list[Path], shown: str) -> None:
    """Once a file's name tells its split, `datasets` takes those alone whose names do.

    Raises:
        UserError: beside a file that is read there is one in no split; what lies in other folders may be something
            else.
    """
    folders = {path.parent for path in read}
    for path in files:
        if path not in read and path.parent in folders:
            other = next(name for name in read if name.parent == path.parent)
            split = _split_in(path.name) or "train"
            why = f"{other.name} beside it has the name of a split, and it has none (train, test, validation, ...)"
            advice = f"give it one, such as {split}-{path.name}"
            if SHARD.fullmatch(other.as_posix()):
                there = sum(one.parent == path.parent and one.name.startswith(f"{split}-") for one in read)
                why = f"beside {other.name} only files that are called like it are read"
                advice = f"rename it, say to {split}-{there:05}-of-{there + 1:05}{''.join(path.suffixes)}"
            raise UserError(
                f"{shown}/{path} would not be read: {why}; {advice}, move it away, or name the files to "
                "read, which then are the one split train, with fetch.path, such as "
                f"{shown}/{path.with_name('*' + path.suffix)}."
            )


def _split_in(name: str) -> str | None:
    """The split that a part of the name means to `datasets`, in any case of letters; of several the last, since
    rows of a test that are trained on do more harm than rows that are not."""
    from datasets.data_files import NON_WORDS_CHARS, SPLIT_KEYWORDS

    parts = re.split(f"[{NON_WORDS_CHARS}]+", name.lower())
    named = [str(split) for split, keywords in SPLIT_KEYWORDS.items() if not set(parts).isdisjoint(keywords)]
    return named[-1] if named else None


def _is_data(path: Path) -> bool:
    """Whether `path` has the name of a data file; `datasets` passes over those that describe a dataset."""
    from datasets.data_files import FILES_TO_IGNORE

    return format_of(path) is not None and path.name not in FILES_TO_IGNORE


def _is_hidden(path: Path) -> bool:
    """Whether `datasets` passes over it."""
    return any(part.startswith((".", "__")) for part in path.parts)
