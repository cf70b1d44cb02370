"""What a model card says follows from the report and from whence, and the Hub's own reader understands it."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from huggingface_hub import ModelCard

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.provenance.card.card import card
from epsilon_dpo.provenance.card.push import push
from epsilon_dpo.provenance.champion.recorded import Policy
from epsilon_dpo.provenance.graph.project import Project

REVISION, BASE = "d" * 40, "b" * 40
ON_HUB = {"source": "pretrained", "path": "owner/base", "revision": BASE}
RUN = {"n": 256, "policy_sha256": "a" * 64, "config": {"method": "epsilon_dpo", "beta": 0.3}} | {
    "win_rate/chosen": 0.71875, "win_rate/chosen_low": 0.6605, "win_rate/chosen_high": 0.7719,
    "win_rate/sft": 0.75, "win_rate/sft_low": 0.7, "win_rate/sft_high": 0.8,
    "kl_fwd_rb": 1.8167, "kl_fwd_rb_low": 1.6923, "kl_fwd_rb_high": 1.9412,
}  # fmt: skip
SUMMARY: dict[str, Any] = {
    "confidence": 0.95,
    "true_reward": False,
    "runs": {"mine": RUN, "dpo": RUN},
    "data_sha256": {"eval.jsonl": "e" * 64, "train.jsonl": "c" * 64},
    "dataset": {"source": "hh", "rows": {"train": 3000}, "files": {"train.jsonl.gz": "f" * 64}},
    "judge": {"source": "pretrained", "kind": "pairrm", "origin": "llm-blender/PairRM at 5b880cc7"},
    "statements": ["No two of the 2 runs can be told apart."],
}
LOCKED = {
    "sft": {"seed": 17, "sft": {"learning_rate": 0.01}},
    "align@mine": {"seed": 17, "runs.mine": {"method": "epsilon_dpo", "beta": 0.3}, "base.path": "/home/me/model"},
    "align@dpo": {"runs.dpo": {"method": "dpo"}},
}
PINS = {
    "sft": {"trl": "1.16.0", "torch": "2.13.0"},
    "align@mine": {"torch": "2.13.0", "Jinja2": "3.1.6"},
    "align@dpo": {"peft": "0.21.2"},
}


@pytest.fixture
def made(tmp_path: Path) -> Any:
    """The card with what the Hub's page of a repository says of its licence."""
    stages = [SimpleNamespace(addressing=name) for name in LOCKED]
    locked = lambda s: {"params": {"params.yaml": LOCKED[s.addressing], "pins.yaml": PINS[s.addressing]}}  # noqa: E731
    project = SimpleNamespace(stages=stages, locked=locked)

    def make(
        licence: str | None = None,
        fetch: Any = None,
        under: str = "",
        facts: Any = None,
        truth: bool = False,
        base: Any = ON_HUB,
        judge: Any = None,
        **stated: str,
    ) -> ModelCard:
        origin = {
            "base": base,
            "data": {"params": fetch or {"source": "hh", "repo": "owner/data", "revision": REVISION}},
            "parents": [{"stage": "sft"}, {"stage": "align@mine"}],
        }
        judged = {"judge": SUMMARY["judge"] | (judge or {})}
        policy = Policy("mine", "a" * 64, str(tmp_path), "out/align/mine", "m.dir", [], origin)
        asked = lambda repo, revision, kind: stated.get(kind)  # noqa: E731
        summary = SUMMARY | ({"sampled_under": under} if under else {})
        summary = summary | {"dataset": SUMMARY["dataset"] | (facts or {}), "true_reward": truth} | judged
        made = card(cast(Project, project), policy, summary, "owner/new", licence, asked)
        return ModelCard(str(made))  # as whoever downloads it reads it

    return make


def test_the_hub_reads_results_with_their_intervals(made: Any) -> None:
    data = made("apache-2.0").data
    assert (data.base_model, data.datasets, data.license) == ("owner/base", ["owner/data"], "apache-2.0")
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("transformers", "text-generation", "mine")
    assert data.tags == ["preference-optimization", "epsilon-dpo", "epsilon_dpo"]
    first, second, kl = data.eval_results
    assert (first.metric_name, first.metric_value) == ("judged wins over the chosen answers", 0.7188)
    assert first.metric_args == {"low": 0.6605, "high": 0.7719, "confidence": 0.95}
    assert second.metric_name == "judged wins over the reference's answers" and kl.metric_type == "kl_divergence"
    assert (first.dataset_type, first.dataset_revision) == ("owner/data", REVISION)
    assert first.dataset_args == {"sha256": "e" * 64}


def test_the_page_has_recipe_data_versions_and_licences(made: Any) -> None:
    text = made(dataset="mit", model="gemma").text
    assert "| judged wins over the chosen answers | 71.9 % | 66.0 % to 77.2 % |\n| judged" in text
    assert "| KL(reference ‖ policy), nats per answer | 1.82 | 1.69 to 1.94 |\n\nWhat" in text
    recipe = text.split("```yaml\n")[1].split("```")[0]
    assert recipe == (
        "seed: 17\nsft: {learning_rate: 0.01}\nruns.mine: {method: epsilon_dpo, beta: 0.3}\nbase.path: model\n"
    )
    assert f"[owner/data](https://huggingface.co/datasets/owner/data) at revision `{REVISION}`" in text
    assert f"- `train.jsonl.gz`, sha256 `{'f' * 64}`" in text and f"sha256 `{'e' * 64}`" in text
    assert "- Data owner/data: mit\n" in text and "- Base model owner/base: gemma\n" in text
    assert "Jinja2 3.1.6, torch 2.13.0, trl 1.16.0." in text, "also of what trained the reference"
    assert "a" * 64 in text and "- No two of the 2 runs can be told apart." in text
    assert "# transformers 5 or newer" in text and 'AutoModelForCausalLM.from_pretrained("owner/new")' in text


def test_the_page_names_the_judge_and_says_of_generated_data_alone_that_the_truth_is_known(made: Any) -> None:
    judged = "with 95 % confidence intervals. Judge: pairrm, llm-blender/PairRM at 5b880cc7."
    known = f"{judged} The true reward of these data is known."
    text = made().text
    assert judged in text and "true reward" not in text and known in made(truth=True).text


def test_the_page_says_by_what_criterion_a_language_model_judged(made: Any) -> None:
    """Where it was the user's own: a win rate means something else then."""
    own = {"kind": "llm", "origin": "M at http://localhost:8000/v1", "criterion": "1. It runs.\n2. It is short."}
    said = "It was asked which answer is better by: “1. It runs. 2. It is short.”"
    assert f"Judge: llm, M at http://localhost:8000/v1. {said}" in made(judge=own).text
    assert "asked which" not in made(judge=own | {"criterion": None}).text


def test_what_is_no_kl_is_not_published_as_one(made: Any) -> None:
    """Neither for people nor for the Hub, which has no room to say under what the answers were drawn."""
    found = made(under="temperature 0.7, top_p 0.95")
    assert "kl_divergence" not in [result.metric_type for result in found.data.eval_results] and "KL(" not in found.text
    assert "drawn under temperature 0.7, top_p 0.95, not from the policy itself: no KL" in " ".join(found.text.split())
    assert len(found.data.eval_results) == 2 and "drawn under" not in made().text


def test_no_licence_is_made_up(made: Any) -> None:
    found = made()
    assert found.data.license is None and "\nlicense" not in found.content
    assert "- This policy: nobody has stated one\n" in found.text
    assert "- Data owner/data: see its page on the Hub\n" in found.text
    assert "- Data: not recorded\n" in made(fetch={"source": "dataset", "path": "data/x", "revision": None}).text


def test_a_base_model_of_this_machine_is_no_repository_of_the_hub(made: Any) -> None:
    """The Hub would link to whoever has that name there, and a path tells who trained where."""
    found = made(base={"source": "pretrained", "path": "/home/me/gemma", "revision": None}, model="mit")
    assert found.data.base_model is None and "/home/me" not in found.content
    assert "of a reference that began as gemma. Made by epsilon-dpo" in found.text
    assert "- Base model, a local folder: not recorded\n" in found.text


def test_a_base_model_that_is_not_known_is_not_taken_for_the_embedded_one(made: Any) -> None:
    """`whence` does not know it where lists of files are missing in DVC's cache."""
    text = made(base=None).text
    assert "of a reference that began as a model that is not known here. Made by" in text
    assert "- This policy: nobody has stated one\n- Base model: not known\n" in text
    text = made(base={"source": "embedded", "hidden_size": 64}).text
    assert "that began as a small embedded model. Made by" in text and "Base model" not in text


def test_a_repository_without_an_owner_is_refused_before_one_is_made() -> None:
    """The Hub would make it in the user's own name, and then not find it by the bare one."""
    with pytest.raises(UserError, match=r"^'new' is no Hub repository name; write owner/name\.$"):
        push(Namespace(run="better", repo="new", licence=None, public=False))


def test_an_adapter_is_published_merged(made: Any, tmp_path: Path) -> None:
    """Its base is the reference, on no Hub: put on the base model it would be a policy that nobody measured."""
    assert "merged" not in made().text and "`manifest.json`\nbeside" in made().text
    (tmp_path / "adapter_config.json").write_text("{}")
    found = made()
    assert found.data.library_name == "transformers" and "AutoModelForCausalLM.from_pretrained" in found.text
    assert "is merged into the weights of the reference" in found.text and "manifest.json" not in found.text


def test_the_members_of_a_mixture_are_named_each_and_none_stands_for_all(made: Any) -> None:
    members = {
        "a": {"source": "dataset", "path": "owner/a", "revision": REVISION},
        "own": {"source": "dataset", "path": "data/x", "revision": None},
        "made": {"source": "synthetic"},
    }
    shares = {name: {"share": 0.3, "fetch": fetch} for name, fetch in members.items()}
    rows = {"members": {name: {"rows": {"train": 1000}} for name in members}, "rows": {"train": 3000}}
    found = made(fetch={"source": "mixture", "members": shares}, facts=rows, dataset="mit")
    assert found.data.datasets == ["owner/a"]
    result = found.data.eval_results[0]
    assert (result.dataset_type, result.dataset_name, result.dataset_revision) == ("epsilon-dpo", "mixture data", None)
    link = f"[owner/a](https://huggingface.co/datasets/owner/a) at revision `{REVISION}`"
    sources = [f"- Source: {name}; rows: 1,000 train\n" for name in (link, "own, of this machine", "made")]
    assert "".join(sources) in found.text and "3,000" not in found.text
    generated = "- Data made: generated by the code of epsilon-dpo, Apache-2.0\n"
    assert f"- Data owner/a: mit\n- Data own, of this machine: not recorded\n{generated}" in found.text
