"""The stage scorer on files: constant by default, for which nothing is loaded, and a scorer where one is asked for."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from untracked import run_untracked

from epsilon_dpo.judging.scorer.code import made_with
from epsilon_dpo.judging.scorer.loading import load_scorer
from epsilon_dpo.methods.registry import method_names
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.params import read_yaml

ROOT = Path(__file__).resolve().parents[2]
MOON, SUN = ([{"role": "user", "content": f"Tell me about the {name}."}] for name in ("Moon", "Sun"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three training pairs of two prompts and one evaluation pair of the generated world, and a judge's folder."""
    for name in ("src", "stages", "dvc.yaml", "pins.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for folder in ("validate", "pairs", "teacher"):
        (tmp_path / "out" / folder).mkdir(parents=True)
    for split, prompts in (("train", [MOON, SUN, MOON]), ("eval", [SUN])):
        rows = [{"id": f"{split}/{number}", "prompt": prompt} for number, prompt in enumerate(prompts)]
        ids = [{"id": row["id"], "prompt_ids": [1, len(row["prompt"][0]["content"])]} for row in rows]
        write_jsonl(tmp_path / "out" / "validate" / f"{split}.jsonl", rows)
        write_jsonl(tmp_path / "out" / "pairs" / f"{split}.jsonl", ids)
    write_json(tmp_path / "out" / "pairs" / "pairs.json", {"source": "dataset"})
    write_json(tmp_path / "out" / "validate" / "dataset.json", {"true_reward": True})
    a_judge(tmp_path, "reward_model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    run_untracked(monkeypatch)
    return tmp_path


def a_judge(project: Path, kind: str) -> None:
    write_json(project / "out/teacher/judge.json", {"kind": kind})
    for name in ("model.safetensors", "metrics.json", "metrics.jsonl"):
        (project / "out/teacher" / name).write_text(f"{name} of {kind}")


def run(project: Path, block: str) -> Path:
    """`python -m stages.scorer` in this process; the folder of an online method."""
    (project / "params.yaml").write_text(f"scorer: {block}\n", "utf-8")
    runpy.run_module("stages.scorer", run_name="__main__")
    return project / "out" / "scorer" / "rloo"


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_scorer_reaches_the_folders_of_online_methods_alone(project: Path) -> None:
    """On which align@RUN depends: a run on pairs keeps its inputs, whoever scores, and so its policy."""
    run(project, "null")
    before = content(project / "out/scorer")
    run(project, "{source: judge}")
    after = content(project / "out/scorer")
    assert {Path(name).parts[0] for name in after} == set(method_names())
    changed = {Path(name).parts[0] for name in after if after[name] != before.get(name)}
    assert changed == {"ppo", "rloo"}
    deps = read_yaml(ROOT / "dvc.yaml")["stages"]["align"]["do"]["deps"]
    assert [dep for dep in deps if dep.startswith(("out/scorer", "out/judge", "out/teacher"))] == [
        "out/scorer/${item.method}"
    ]


def test_a_change_of_what_only_online_runs_need_reaches_their_folders_and_a_comment_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pins.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    before = made_with()
    assert list(before["packages"]) == ["scikit-learn", "vaderSentiment"]

    def after(file: str, added: str) -> dict:
        text = Path(file).read_text("utf-8")
        Path(file).write_text(text + added, "utf-8")
        try:
            return made_with()
        finally:
            Path(file).write_text(text, "utf-8")

    room = "src/epsilon_dpo"
    assert after(f"{room}/judging/judges/sentiment.py", "\n# a comment\n") == before
    for file in ("judging/judges/sentiment.py", "sampling/decoding/stops.py", "training/online/rollouts.py"):
        assert after(f"{room}/{file}", "\nX = 1\n")["code"] != before["code"]
    assert after(f"{room}/models/logps/kernel.py", "\nX = 1\n") == before, "of which stage align depends itself"
    pinned = read_yaml(Path("pins.yaml"))["vaderSentiment"]
    Path("pins.yaml").write_text(Path("pins.yaml").read_text("utf-8").replace(f'"{pinned}"', '"0"'), "utf-8")
    assert made_with() == before | {"packages": before["packages"] | {"vaderSentiment": "0"}}


def test_by_default_it_is_constant_and_an_online_run_is_refused(project: Path) -> None:
    """Whatever judge and data are, so that no training depends on them."""
    first = content(run(project, "null"))
    assert first.keys() == {"scorer.json"}
    a_judge(project, "llm")
    write_jsonl(project / "out/pairs/train.jsonl", [])
    assert content(run(project, "null")) == first
    with pytest.raises(UserError, match=r"holds no scorer, which an online run needs; set scorer: \{source:"):
        load_scorer(project / "out/scorer/rloo")


def test_the_true_reward_scores_and_prompts_are_distinct(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = run(project, "{source: true_reward}")
    assert read_jsonl(out / "train_prompts.jsonl") == [
        {"id": "train/0", "prompt_ids": [1, 23], "prompt": MOON},
        {"id": "train/1", "prompt_ids": [1, 22], "prompt": SUN},
    ]
    assert [row["id"] for row in read_jsonl(out / "eval_prompts.jsonl")] == ["eval/0"]
    score = load_scorer(out)
    answers = ["Of course! The Moon orbits the Earth. Ask me more!", "", "The Sun is a star."]
    assert score([MOON, MOON, SUN], answers) == [3.0, -1.0, 1.5]
    clipped = load_scorer(run(project, "{source: true_reward, clip: 1.25}"))
    assert clipped([MOON, MOON, SUN], answers) == [1.25, -1.0, 1.25]
    monkeypatch.setattr("epsilon_dpo.judging.scorer.loading.true_reward", lambda *_: float("inf"))
    assert clipped([MOON], ["what overflows"]) == [float("inf")], "it is not cut to the best score of all"
    monkeypatch.undo()
    monkeypatch.chdir(project)
    before = content(out)
    a_judge(project, "llm")
    assert content(run(project, "{source: true_reward, clip: 1.25}")) == before, "it does not depend on the judge"


def test_on_policy_prompts_have_the_texts_of_the_answers(project: Path) -> None:
    write_json(project / "out/pairs/pairs.json", {"source": "on_policy"})
    write_jsonl(project / "out/pairs/train.jsonl", [{"id": "train/1/0-2", "prompt_ids": [1, 22]}])
    write_jsonl(project / "out/pairs/train_text.jsonl", [{"id": "train/1/0-2", "prompt": SUN}])
    out = run(project, "{source: true_reward}")
    assert read_jsonl(out / "train_prompts.jsonl") == [{"id": "train/1/0-2", "prompt_ids": [1, 22], "prompt": SUN}]


def test_a_judge_is_copied_without_what_it_cost_and_gives_each_answer_its_number(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run(project, "{source: judge}")
    assert read_json(out / "scorer.json") == {"source": "judge", "clip": None}
    assert content(out / "judge").keys() == {"judge.json", "model.safetensors"}

    class Lengths:
        def rank(self, prompts: list, candidates: list[list[str]]) -> list[list[float]]:
            return [[float(len(text)) for text in of] for of in candidates]

    loaded = []
    monkeypatch.setattr(
        "epsilon_dpo.judging.judges.loading.load_judge", lambda folder: loaded.append(folder) or Lengths()
    )
    assert load_scorer(out)([MOON, SUN], ["four", ""]) == [4.0, 0.0] and loaded == [out / "judge"]


@pytest.mark.parametrize("kind", ["pairrm", "llm"])
def test_a_judge_that_only_compares_is_refused_and_nothing_is_left(
    project: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a_judge(project, kind)
    with pytest.raises(SystemExit, match=rf"a judge of kind {kind} only compares two; choose one"):
        run(project, "{source: judge}")
    assert not (project / "out" / "scorer").exists()


def test_data_without_a_true_reward_are_refused(project: Path) -> None:
    write_json(project / "out" / "validate" / "dataset.json", {"true_reward": False})
    with pytest.raises(SystemExit, match=r"scorer\.source: true_reward needs data whose reward is known"):
        run(project, "{source: true_reward}")


def test_without_scorer_and_margins_nothing_heavy_is_loaded(project: Path) -> None:
    """The default runs both stages each time that the judge changes."""
    (project / "params.yaml").write_text("threads: 1\nscorer: null\nmargins: null\n", "utf-8")
    heavy = "{'torch', 'transformers', 'scipy', 'numpy'} & set(sys.modules)"
    runs = "".join(f"runpy.run_module('stages.{stage}', run_name='__main__'); " for stage in ("scorer", "margins"))
    script = f"import sys, runpy; {runs}print(sorted({heavy}))"
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", script], cwd=project, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "[]"
