"""A stage that is killed and run again ends with the same bytes, and computes no record twice.

Each stage that samples, judges or measures is run undisturbed, then killed at several of its records and run again.
"""

import hashlib
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from untracked import run_untracked

from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl
from epsilon_dpo.pipeline.stage.journal import Journal
from epsilon_dpo.sampling.decoding import decoding, kept_state

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
STOPS = ", ".join(f"w{number}" for number in range(8))  # a model with random weights seldom says its own
SAMPLER = f"""
  samples_per_prompt: 3
  temperature: 1.0
  logits: {{top_p: 1.0, top_k: null, min_p: null, repetition_penalty: 1.0}}
  stop: {{tokens: [{STOPS}], strings: []}}
  max_new_tokens: 16
  batch_size: 5
  backend: transformers
  max_prompts: null
"""
PARAMS = f"""
seed: 3
threads: 1
confidence: 0.95
sample: {SAMPLER}
  turns: all
candidates: {SAMPLER}
margins: {{source: judge, temperature: 1.0}}
kl: {{batch_size: 4, token_chunk: 64}}
monotonicity: {{epsilon: 0.01, batch_size: 3, token_chunk: 64}}
tournament: {{max_prompts: null}}
runs: {{a: {{method: dpo}}, b: {{method: dpo}}}}
"""
BENCHMARK = f"""
seed: 3
threads: 1
decoding:
  stop: {{tokens: [{STOPS}], strings: []}}
  mt_bench: {{temperature: {{writing: 1.0, math: 0.7, stem: 0.7}}, max_new_tokens: 16, batch_size: 2}}
  alpaca_eval: &one {{temperature: 1.0, max_new_tokens: 16, batch_size: 2}}
  arena_hard: *one
runs: {{a_mt_bench: {{policy: align/a, benchmark: mt_bench}}}}
"""
EXTERNAL = "answers"  # of external/dvc.yaml, in whose folder it runs
SAMPLING = ("reference", "sample", "candidates", EXTERNAL)
ORDER = (*SAMPLING, "ranking", "score", "controls", "margins", "kl", "monotonicity", "tournament")


class Killed(BaseException):
    pass


class Work(NamedTuple):
    records: int  # batches that came into the journal, or states that were written
    forwards: int  # passes of a model that samples, or batches computed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"root": tmp_path_factory.mktemp("project"), "done": False}


@pytest.fixture
def project(
    finished: dict[str, Any],
    sft_folder: Callable[..., Path],
    tiny_gemma: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The inputs of every stage, and every stage run once, undisturbed."""
    root: Path = finished["root"]
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.syspath_prepend(ROOT / "tests" / "judging")
    monkeypatch.syspath_prepend(ROOT / "tests" / "external")
    run_untracked(monkeypatch)
    monkeypatch.setattr(kept_state, "EVERY_S", 0.0)
    monkeypatch.setattr(kept_state, "SHARE", float("inf"))
    for name in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    if not finished["done"]:
        make_inputs(root, sft_folder(), tiny_gemma)
    monkeypatch.chdir(root)
    if not finished["done"]:
        for stage in ORDER:
            for run in runs_of(stage):
                execute(stage, run, monkeypatch)
        finished["done"] = True
    return root


def make_inputs(root: Path, sft: Path, tiny_gemma: Callable[..., Any]) -> None:
    import benchmark_files  # of tests/external
    import tiny_pairrm  # of tests/judging

    for name in ("src", "stages", "dvc.yaml", "pins.yaml"):
        (root / name).symlink_to(ROOT / name)
    (root / "params.yaml").write_text(PARAMS, "utf-8")
    out = root / "out"
    for number, folder in enumerate(("sft/model", "align/a/model", "align/b/model")):
        (out / folder).mkdir(parents=True)
        for file in sft.iterdir():
            (out / folder / file.name).write_bytes(file.read_bytes())
        tiny_gemma(seed=number, initializer_range=0.1).save_pretrained(out / folder)
    (out / "base" / "model").mkdir(parents=True)
    for folder in ("judge", "teacher"):
        tiny_pairrm.write(out / folder)
    lengths = {"source_max_length": 24, "candidate_max_length": 24}
    for folder in ("judge", "teacher"):
        write_json(out / folder / "judge.json", {"kind": "pairrm", **lengths, "batch_size": 2, "budget": "example"})
    for split in ("train", "eval"):
        rows, pairs = [], []
        for number in range(8):
            ids = {"prompt_ids": [1, 5 + number, 9], "chosen_ids": [7 + number, 12, 2], "rejected_ids": [30, 2]}
            said = {side: " ".join(f"w{id_ - 3}" for id_ in ids[f"{side}_ids"][:-1]) for side in ("chosen", "rejected")}
            texts = {side: [{"role": "assistant", "content": text}] for side, text in said.items()}
            prompt = [{"role": "user", "content": f"w{2 + number} w6"}]
            rows.append({"id": f"{split}/{number}", "prompt": prompt, **texts})
            pairs.append({"id": f"{split}/{number}", **ids})
        for folder, of_split in (("validate", rows), ("pairs", pairs)):
            (out / folder).mkdir(exist_ok=True)
            write_jsonl(out / folder / f"{split}.jsonl", of_split)
    write_json(out / "pairs" / "pairs.json", {"source": "dataset"})
    write_json(out / "validate" / "dataset.json", {"true_reward": False})
    external = root / "external"
    (external / "data" / "mt_bench").mkdir(parents=True)
    benchmark_files.write_mt_bench(external / "data" / "mt_bench")
    (external / "params.yaml").write_text(BENCHMARK, "utf-8")
    for name in ("dvc.yaml", "answers.py"):
        (external / name).symlink_to(ROOT / "external" / name)


def folder_of(project: Path, stage: str) -> Path:
    """Where it runs, and where its out/ and scratch/ lie."""
    return project / "external" if stage == EXTERNAL else project


def runs_of(stage: str) -> tuple[str, ...]:
    if stage == EXTERNAL:
        return ("a_mt_bench",)
    return ("a", "b") if stage in ("sample", "score", "kl", "monotonicity") else ("",)


def execute(stage: str, run: str, monkeypatch: pytest.MonkeyPatch, kill_at: int | None = None) -> Work:
    """`python -m stages.<stage> <run>` (`python answers.py <run>`) in this process, killed at so many records on the
    disk.
    """
    records, forwards = [0], [0]

    def counted(original: Callable[..., Any], counter: list[int], limit: int | None) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            found = original(*arguments)
            counter[0] += 1
            if counter[0] == limit:
                raise Killed
            return found

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "_append", counted(Journal._append, records, kill_at))
        patched.setattr(kept_state.KeptState, "save", counted(kept_state.KeptState.save, records, kill_at))
        patched.setattr(decoding, "_logits", counted(decoding._logits, forwards, None))
        patched.setattr(sys, "argv", [stage, *([run] if run else [])])
        for name in [name for name in sys.modules if name.startswith("stages.")]:
            del sys.modules[name]
        patched.chdir(folder_of(Path.cwd(), stage))
        try:
            if stage == EXTERNAL:
                runpy.run_path(f"{stage}.py", run_name="__main__")
            else:
                runpy.run_module(f"stages.{stage}", run_name="__main__")
        except Killed:
            assert kill_at is not None
        else:
            assert kill_at is None
    return Work(records[0], forwards[0] if stage in SAMPLING else records[0])


def content(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("stage", ORDER)
def test_it_ends_with_the_same_bytes_and_computes_nothing_twice(
    project: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = runs_of(stage)[-1], folder_of(project, stage)
    out = folder / "out" / stage / run
    expected = content(out)
    assert expected
    whole = execute(stage, run, monkeypatch)
    assert content(out) == expected  # undisturbed twice
    assert whole.records > 2, "too few to be killed between them"
    for kill_at in {1, whole.records // 2, whole.records - 1}:
        before = execute(stage, run, monkeypatch, kill_at)
        after = execute(stage, run, monkeypatch)
        assert content(out) == expected
        assert before.forwards + after.forwards == whole.forwards
    assert not [path.name for path in (folder / "scratch").iterdir() if path.name.startswith(f"{stage}-")]


def test_many_kills_in_a_row(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = project / "out" / "score" / "b"
    expected, whole = content(out), execute("score", "b", monkeypatch)
    for _ in range(whole.records - 1):
        assert execute("score", "b", monkeypatch, kill_at=1).records == 1
    assert execute("score", "b", monkeypatch).records == 1
    assert content(out) == expected


def test_other_params_read_nothing_of_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of another size hold other floats: they may differ by rounding."""
    whole = execute("kl", "b", monkeypatch)
    execute("kl", "b", monkeypatch, kill_at=3)
    params = project / "params.yaml"
    params.write_text(PARAMS.replace("token_chunk: 64}\nmono", "token_chunk: 32}\nmono"), "utf-8")
    try:
        assert execute("kl", "b", monkeypatch).records == whole.records
    finally:
        params.write_text(PARAMS, "utf-8")
        torch.use_deterministic_algorithms(False)
