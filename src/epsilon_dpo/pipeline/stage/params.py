"""Reading params.yaml: YAML 1.2, typed, unknown keys refused with the nearest valid name.

DVC reads YAML 1.2 (`1e-6` is a number), PyYAML reads 1.1 (`1e-6` is text): the file is read here the way DVC reads it.
A stage loads a *view*: a `Strict` model whose fields are exactly the top-level keys the stage declares under `params:`
in dvc.yaml; of `runs.${key}` it gets the entry of its own run. It therefore cannot read a number that DVC does not
watch for it.
"""

import copy
import difflib
import functools
import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.reader import ReaderError

from epsilon_dpo.pipeline.observability.errors import UserError, first_line

PARAMS_FILE = Path("params.yaml")
METRICS = "metrics"  # out/align/metrics/RUN: what a training logged, without the weights of out/align/RUN
# `params: [runs.${key}]` in dvc.yaml breaks on a dot, file names and MLflow on others, file systems on what is long.
RUN_NAME = r"[a-z0-9_]{1,100}"


def _named_as_a_run(name: str) -> str:
    if not re.fullmatch(RUN_NAME, name):
        raise ValueError(f"{name!r} is no name of a run; use a-z, 0-9 and _ only, at most 100 of them")
    return name


Name = Annotated[str, AfterValidator(_named_as_a_run)]

LARGEST_INT = 2**32 - 1
SMALLEST, LARGEST = 1.0e-13, 1.0e13


class Strict(BaseModel):
    """Base of every block: no unknown keys, no silent conversions, no infinities, no later changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _has_a_size_that_can_be_meant(cls, value: Any) -> Any:
        """A zero too many makes 10 times as much, an exponent too many an overflow hours later."""
        if isinstance(value, int) and abs(value) > LARGEST_INT:
            raise ValueError(f"an integer must not exceed {LARGEST_INT} in size")
        if isinstance(value, float) and value and not SMALLEST <= abs(value) <= LARGEST:
            raise ValueError(f"a number must be 0 or from {SMALLEST:g} to {LARGEST:g} in size")
        return value


Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes
Threads = Annotated[int, Field(ge=1, le=1024)]  # of torch
# Of every interval, since the report shows them side by side; the bound is what 10,000 resamples can tell.
Confidence = Annotated[float, Field(gt=0.0, le=0.9999)]

COMMIT = r"^[0-9a-f]{40}$"  # of the Hub; it pins what was read, which a branch does not
PLAIN_WORDS = {  # by pydantic's type of a problem
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "Input should be a block of keys"),
    "bool_type": "Input should be true or false",
    "string_too_short": "It must not be empty",
    "too_short": "It needs {min_length} or more entries and has {actual_length}",
}
PRESETS = Path("presets")
KINDS = ("source", "method")  # keys that tell blocks of a union, and runs, apart
LONG = 120  # characters of a value that a sentence shows

Model = TypeVar("Model", bound=Strict)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in `path`.

    Raises:
        UserError: the file is absent, is not YAML, or is not a mapping.
    """
    text = ""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # UTF-8 alone, as DVC reads it
        content = copy.deepcopy(_parsed(text))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run from the project's root, or copy one from presets/.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} is no UTF-8 text (line {line}); save it as UTF-8.") from None
    except ReaderError as error:
        found, line = text[error.position], text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{path} has the character {found!r} in line {line}, which YAML does not allow; remove it."
        ) from None
    except YAMLError as error:
        reason = " ".join(str(error).split()).replace("<unicode string>", str(path))
        reason = re.sub(r"(found duplicate key \"[^\"]*\").*? (in \")", r"\1 \2", reason.split(" To suppress")[0])
        raise UserError(f"{path} is not valid YAML: {reason}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply; no block of it has more than a few levels.") from None
    except (ValueError, LookupError, AssertionError) as error:  # an integer of thousands of digits, a 13th month, a tag
        raise UserError(f"{path} holds a value that cannot be read: {first_line(error)}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must be a mapping of blocks, one per stage; presets/ holds complete examples.")
    return content


@functools.cache
def _parsed(content: str) -> Any:
    """By content and not by path: a stage reads its files several times, a test rewrites them."""
    return YAML(typ="safe", pure=True).load(content)


def in_yaml(value: Any) -> str:
    """A single value as it stands in params.yaml: `true`, `null`, `0.3`, `soft`, `2024-01-01`."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def flow(value: Any) -> str:
    """A value on one line, as YAML takes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return value if isinstance(value, str) and _is_plain(value) else json.dumps(value, ensure_ascii=False)


@functools.cache
def _is_plain(text: str) -> bool:
    """Whether YAML takes `text` without quotes for itself; not so "User:", "[EOS]" or "no, thanks"."""
    if not text.isprintable() or text.startswith("&"):  # an anchor
        return False
    try:
        found: Any = YAML(typ="safe", pure=True).load(f"alone: {text}\nlisted: [{text}, {text}]")
    except (YAMLError, ValueError, LookupError, OverflowError):  # a date that is none, a tag without its value
        return False
    return bool(found == {"alone": text, "listed": [text, text]})


def shown(value: Any) -> str:
    """A value in a sentence, of which the beginning does: a text over many lines would bury the reason."""
    as_written = value is None or isinstance(value, bool | date)
    found = in_yaml(value) if as_written else repr(value)
    return found if len(found) <= LONG else f"{found[: LONG - 3]}..."


def parse(model: type[Model], content: Any, where: str = "", file: Path = PARAMS_FILE) -> Model:
    """`content` as a `model`; `where` is the dotted key of this content in `file`.

    Raises:
        UserError: one sentence per problem: the file, the dotted key, what is wrong, the nearest valid name.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(" ".join(_sentence(model, problem, where, file) for problem in error.errors())) from None


def load(view: type[Model], path: Path = PARAMS_FILE, run: str | None = None) -> Model:
    """The part of params.yaml that `view` names: its fields are the top-level keys, other keys are not looked at.

    Args:
        run: the stage's own, where dvc.yaml declares `runs.${key}`: of `runs` only this entry is looked at.

    Raises:
        UserError: the file cannot be read, or a value in this part is refused.
    """
    content = read_yaml(path)
    part = {key: content[key] for key in _keys(view) if key in content}
    if run is not None and isinstance(part.get("runs"), dict):
        part["runs"] = {name: entry for name, entry in part["runs"].items() if name == run}
    return parse(view, part, file=path)


def _keys(model: type[BaseModel]) -> list[str]:
    """The names that `model` reads in the file."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _sentence(model: type[BaseModel], problem: Any, where: str, file: Path) -> str:
    """One pydantic problem as one sentence with file, dotted key and remedy."""
    problem = _in_plain_words(problem)
    location = [str(part) for part in problem["loc"]]
    if location[-1:] == ["[key]"]:  # pydantic's mark for the name itself, which the reason quotes
        if problem["type"] == "string_type":
            of = ".".join(_keys_of(model, problem["loc"][:-2]))
            return f"{file}: {of} has the name {shown(problem['input'])}, which is no text in YAML; put it in quotes."
        return f"{file}: {problem['msg'].removeprefix('Value error, ')}."
    if problem["type"] == "invalid_key":  # of a block, whose keys are all texts
        of = ".".join(([where] if where else []) + _keys_of(model, problem["loc"][:-1]))
        at = f"{of} has" if of else "there is"
        return f"{file}: {at} the key {shown(problem['input'])}, which is no text in YAML and no key here; remove it."
    key = ".".join(([where] if where else []) + _keys_of(model, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        valid = [name for place in _walk(model, problem["loc"][:-1])[1] for name in _keys(place)]
        near = difflib.get_close_matches(location[-1], valid, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"valid keys here: {', '.join(sorted(valid))}."
        return f"{file}: unknown key '{key}'; {hint}"
    if problem["type"] == "missing":
        return f"{file}: key '{key}' is missing{_remedy(key.split('.'), problem['input'])}."
    reason = problem["msg"].removeprefix("Value error, ")
    if not key:  # two blocks do not go together: the reason names them, and the value is the entire file
        return f"{file}: {reason}."
    found = problem["input"]
    value = "" if isinstance(found, dict) else f" = {shown(found)}"  # of an entire block the reason names the keys
    return f"{file}: {key}{value} is refused: {reason[:1].lower() + reason[1:]}."


def _remedy(keys: list[str], block: Any) -> str:
    """What to write for the last of `keys`, which `block` lacks: null if most presets have that in such a block, or
    the value of all, which tells a file of an older version what a newer key is to be.

    Where presets differ no value is neutral (a learning rate is the model's), and one of them is named; a kind of block
    that none has is on a page.
    """
    lines = [(preset, f"{keys[-1]}: {flow(value)}") for preset, value in _in_presets(keys, block)]
    if not lines:
        return "; add it (docs/howto.md says of each block where its keys are explained)"
    off = [found for found in lines if found[1] == f"{keys[-1]}: null"]
    mostly_off = 2 * len(off) > len(lines)
    preset, line = off[0] if mostly_off else lines[0]
    if mostly_off or ({other for _, other in lines} == {line} and len(line) <= LONG):
        return f" (newer than this file?); add `{line}`, as in {preset}"
    return f"; add it, as in {preset}"


def _in_presets(keys: list[str], block: Any) -> Iterator[tuple[Path, Any]]:
    """The values at `keys` in presets/, in blocks of the kind of `block`; of a run in those of runs by any name."""
    for preset in sorted(PRESETS.glob("*.yaml")):
        try:
            places = [read_yaml(preset)]
        except UserError:  # a user's own
            continue
        for depth, key in enumerate(keys[:-1]):
            is_run = depth == 1 and keys[0] == "runs"
            found = [value for place in places for name, value in place.items() if is_run or name == key]
            places = [value for value in found if isinstance(value, dict)]
        for place in places:
            if keys[-1] in place and all(place.get(kind) == block.get(kind) for kind in KINDS):
                yield preset, place[keys[-1]]


def _in_plain_words(problem: Any) -> Any:
    """`problem` without pydantic's own vocabulary: tags and discriminators of unions, dictionaries, patterns."""
    if problem["type"] in PLAIN_WORDS:
        return problem | {"msg": PLAIN_WORDS[problem["type"]].format(**problem.get("ctx", {}))}
    if problem["type"] == "string_pattern_mismatch" and problem["ctx"]["pattern"] == COMMIT:
        return problem | {"msg": "it must be a commit, 40 hexadecimal digits, since branches and tags move"}
    if not problem["type"].startswith("union_tag"):
        return problem
    key = problem["ctx"]["discriminator"].strip("'")  # by which the blocks of a union are told apart
    located = problem | {"loc": (*problem["loc"], key)}
    if problem["type"] == "union_tag_not_found":
        return located | {"type": "missing"}
    return located | {
        "input": problem["input"][key],
        "msg": f"Input should be one of {problem['ctx']['expected_tags']}",
    }


def _keys_of(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """`location` as it is written in params.yaml: pydantic puts the tag of a union into it, which is no key."""
    return _walk(model, location)[0]


def _walk(model: type[BaseModel], location: tuple[Any, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys of `location` below `model`, without the tags of unions, and the models that stand there."""
    keys, candidates = [], [model]
    for part in location:
        fields = [field for candidate in candidates if (field := _field(candidate, part))]
        is_union = len(candidates) > 1 and not fields
        tagged = [candidate for candidate in candidates if is_union and _is_tagged(candidate, part)]
        if not tagged:
            keys.append(str(part))
        below = [found for field in fields for found in _models_in(field.annotation)]
        candidates = below or tagged or candidates
    return keys, candidates


def _field(model: type[BaseModel], key: Any) -> FieldInfo | None:
    return next((field for name, field in model.model_fields.items() if key in (name, field.alias)), None)


def _is_tagged(model: type[BaseModel], tag: Any) -> bool:
    """Whether a Literal field of `model` has the value `tag` (the discriminator pydantic puts into error locations)."""
    return any(tag in getattr(field.annotation, "__args__", ()) for field in model.model_fields.values())


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models inside a type such as `A | B`, `Annotated[A | B, ...]` or `dict[str, A]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
