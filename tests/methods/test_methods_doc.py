"""docs/methods.md against the code: its methods, keys, defaults, ranges, costs, states, papers and metrics.

Every built-in method, those that presets/all-methods.yaml names, must be described. Another method need not be.
"""

import math
import re
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
import yaml
from pydantic import ConfigDict, TypeAdapter

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig
from epsilon_dpo.methods.online import Answers, OnlineMethod, Update
from epsilon_dpo.methods.registry import method_names, method_of
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.training.alignment.pair_metrics import pair_metrics
from epsilon_dpo.training.online.answer_logps import AnswerTokens
from epsilon_dpo.training.online.rollouts import _metrics

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "methods.md").read_text("utf-8")
BUILT_IN: dict[str, dict[str, Any]] = {}  # the first run of each method
RUNS: dict[str, list[dict[str, Any]]] = {}  # all of them
for entry in read_yaml(ROOT / "presets" / "all-methods.yaml")["runs"].values():
    BUILT_IN.setdefault(entry["method"], entry)
    RUNS.setdefault(entry["method"], []).append(entry)
SECTIONS: dict[str, tuple[str, str]] = {}  # heading and text by the name in the heading
for part in PAGE.split("\n## ")[1:]:
    heading, text = part.split("\n", 1)
    if match := re.search(r"\(`(\w+)`\)$", heading):
        SECTIONS[match[1]] = heading, text


def rows(text: str, header: str) -> list[list[str]]:
    """The cells of the one table of `text` whose first line begins with `header`."""
    tables = [table for table in re.findall(r"(?:^\|.*\n)+", text, re.M) if table.startswith(header)]
    assert len(tables) == 1, header
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in tables[0].splitlines()[2:]]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# Those that learn from their own answers; their runs stand on the page.
ONLINE: dict[str, dict[str, Any]] = {
    entry["method"]: entry
    for entry in yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[-1])["runs"].values()
}
OVERVIEW = {quoted(cells[0])[0]: cells for cells in rows(PAGE, "| `method:` |")}
ONLINE_OVERVIEW = {quoted(cells[0])[0]: cells for cells in rows(PAGE, "| online `method:` |")}


def test_every_built_in_method_has_a_section_and_a_row_and_no_other_has() -> None:
    assert len(BUILT_IN) >= 18 and set(BUILT_IN) <= set(method_names())
    assert [*OVERVIEW, *ONLINE_OVERVIEW] == list(SECTIONS) and set(OVERVIEW) == set(BUILT_IN)
    assert set(ONLINE_OVERVIEW) == set(ONLINE) == {"rloo", "ppo"}
    assert all(isinstance(method_of("x", entry), OnlineMethod) for entry in ONLINE.values())


@pytest.mark.parametrize("name", SECTIONS)
def test_the_keys_are_those_of_the_config(name: str) -> None:
    """All of them and no other, each with its default; every value of a range is one that the key accepts."""
    fields = import_module(f"epsilon_dpo.methods.{name}").METHOD.Config.model_fields
    keys = {quoted(cells[0])[0]: cells for cells in rows(SECTIONS[name][1], "| key |")}
    assert set(keys) == set(fields) - set(MethodConfig.model_fields)
    for key, (_, _, span, default) in keys.items():
        field = fields[key]
        stated = quoted(default)[0]
        if stated == "required":
            assert field.is_required(), key
        else:
            assert not field.is_required() and yaml.safe_load(stated) == field.default, key
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field], config=ConfigDict(strict=True))
        for value in quoted(span):
            adapter.validate_python(yaml.safe_load(value))


def test_the_keys_of_every_run_are_named() -> None:
    chapter = PAGE.split("\n## Choosing hyperparameters\n")[1].split("\n## ")[0]
    assert set(quoted(chapter)) >= set(MethodConfig.model_fields) - {"method"}


@pytest.mark.parametrize("name", OVERVIEW)
def test_the_row_is_the_code(name: str) -> None:
    link, reference, sft, logps, passes, state, paper = OVERVIEW[name]
    found: type[Method[Any]] = import_module(f"epsilon_dpo.methods.{name}").METHOD
    heading = SECTIONS[name][0]
    anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")  # as GitHub makes it
    assert link == f"[`{name}`](#{anchor})"
    methods = [method_of("x", entry) for entry in RUNS[name]]
    needed = sorted({method.needs_reference for method in methods})
    if len(needed) == 1:
        assert reference == ("no" if not needed[0] else "yes, moving" if found.moves_reference else "yes")
    else:  # a key decides
        assert reference == f"as `{quoted(reference)[0]}` says" and quoted(reference)[0] in found.Config.model_fields
    assert sft == ("yes" if "sft_reduction" in found.Config.model_fields else "no")
    extra = [needs + found.moves_reference + 2 * found.mismatched for needs in needed]
    ahead = [passes + 1 + needs for passes, needs in zip(extra, needed, strict=True)]
    assert [int(number) for number in re.findall(r"\d+", passes)] == (extra + ahead if found.looks_ahead else extra)
    assert (state == "–") == (not any(method.state_dict() for method in methods))
    assert logps.split()[0].rstrip(",") in ("sum", "mean", "token")
    source = (ROOT / "src" / "epsilon_dpo" / "methods" / f"{name}.py").read_text("utf-8")
    first = re.search(r"arXiv (\d{4}\.\d{5})", source)
    assert first and paper == first[1] and f"arXiv {paper}" in SECTIONS[name][1].replace("arXiv\n", "arXiv ")


def everything() -> tuple[Logps, Logps]:
    """Chosen and rejected of one pair with every field that some method asks for."""

    def side(start: float) -> Logps:
        one, tokens = torch.tensor([start]), torch.tensor([[start / 2, start / 2]])
        names = ["reference", "delta_minus", "delta_plus", "kl_ref_policy", "kl_policy_ref"]
        names += ["logps_beta_minus", "logps_beta_plus"]
        sums = dict.fromkeys([*names, "entropy", "initial"], one)
        alone = {
            "log_sum_sq_probs": one,
            "score": one,
            "policy_tokens": tokens,
            "alternative_tokens": tokens,
            "mask": torch.ones(1, 2, dtype=torch.bool),
        }
        return Logps(one, torch.tensor([2]), **sums, mean_tokens=2.0, mean_mismatched=0.0, **alone)

    return side(-3.0), side(-4.0)


@pytest.mark.parametrize("name", ONLINE_OVERVIEW)
def test_the_row_of_an_online_method_is_the_code(name: str) -> None:
    link, reference, values, logps, steps, state, paper = ONLINE_OVERVIEW[name]
    assert link == f"[`{name}`](#{name}-{name})"
    method = method_of("x", ONLINE[name])
    assert isinstance(method, OnlineMethod)
    assert (reference == "yes") == method.needs_reference and (values == "yes") == method.needs_values
    assert method.units(torch.tensor([3])).tolist() == ([1] if logps == "sum" else [3])
    assert math.prod(getattr(method.config, key) for key in quoted(steps)) == method.updates
    keeps = method.needs_values or method.state_dict()
    assert (state == "–") == (not keeps)
    assert f"arXiv {paper}" in SECTIONS[name][1].replace("arXiv\n", "arXiv ")


def test_the_launchers_of_online_methods_are_those_that_the_code_takes() -> None:
    chapter = PAGE.split("\n## Online methods\n")[1].split("\n## ")[0]
    refusal = (ROOT / "src/epsilon_dpo/training/online/online_alignment.py").read_text("utf-8")
    taken = set(re.findall(r"launchers/\w+\.yaml", refusal))
    assert taken and taken == set(re.findall(r"launchers/\w+\.yaml", chapter)) and "(FSDP) is refused" in chapter


def test_what_is_logged_of_own_answers_is_named() -> None:
    """Of the answers by the one table, of a step and the state by the section of the method."""
    one = torch.tensor([[-1.0, -2.0], [-1.5, -0.5]], dtype=torch.float64)
    mask = torch.ones(2, 2, dtype=torch.bool)
    answers = Answers(one[:, 0], one, one + 0.1, mask, mask[:, 0], one)
    common = {quote for cells in rows(PAGE, "| metric of own answers |") for quote in quoted(cells[0])}
    logged = set(_metrics(answers, AnswerTokens(mask, one, one, one, one, one, one), 2))
    for name, entry in ONLINE.items():
        method = method_of("x", entry | {"k": 2} | ({"adaptive_kl": 6.0} if name == "ppo" else {}))
        assert isinstance(method, OnlineMethod)
        targets = method.advantages(answers)
        assert logged | set(targets.metrics) == common
        update = Update(one, one, mask, targets.advantages, one, one, targets.returns)
        own = {*method.loss(update).metrics, *method.after_step(1, {"kl/rev": 1.0})}
        sentence = re.search(r"Logged besides:\s(.*?)\. ?(?:With|\n)", SECTIONS[name][1] + "\n", re.S)
        assert sentence and set(quoted(sentence[1])) - {"adaptive_kl"} == own


@pytest.mark.parametrize("name", OVERVIEW)
def test_what_is_logged_besides_is_named(name: str) -> None:
    """The metrics of a loss and of the state after a step, of all runs of the method and no other."""
    logged = set()
    for entry in RUNS[name]:
        method = method_of("x", entry)
        metrics = method.loss(*everything()).metrics
        means = {metric: values.mean().item() for metric, values in metrics.items()}
        logged |= {*metrics, *method.after_step(1, means, torch.nn.Identity(), None)}
    paragraph = re.search(r"Logged besides: (.*?)(?:\n\n|\nPaper: |\Z)", SECTIONS[name][1], re.S)
    sentence = "" if paragraph is None else re.split(r"\. [A-Z]", paragraph[1])[0]
    assert set(quoted(sentence)) == logged


def test_the_common_metrics_are_named() -> None:
    chosen, rejected = everything()
    common = pair_metrics(chosen, rejected, method_of("x", BUILT_IN["dpo"]).loss(chosen, rejected))
    assert [name for cells in rows(PAGE, "| metric |") for name in quoted(cells[0])] == list(common)


def test_links_exist() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", PAGE)
    targets += [text for text in quoted(PAGE) if re.fullmatch(r"(?:src|tests|presets|docs)/[\w/.-]+", text)]
    assert len(targets) >= 6
    for target in targets:
        assert (ROOT / "docs" / target).exists() or (ROOT / target).exists(), target
