"""Certificates of `epsilon-dpo verify` on the page: those of these very outputs, and no others."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_json
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.report.page import certificates as code
from epsilon_dpo.report.page.certificates import NONE, read_certificates
from epsilon_dpo.report.page.page import write_report
from epsilon_dpo.report.page.results import read_results

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {
    "processor": "AMD EPYC",
    "processor.features": "avx avx2 avx512f",
    "processor.variables": "none",
    "machine": "Linux x86_64, 2 CPUs",
    "python": "3.11.7",
    "torch": "2.13.0",
}
Runs = dict[str, dict[str, Any]]


def certificate(out: Path, *paths: str, **changes: Any) -> dict[str, Any]:
    """Of these outputs as they are now, and of one that the page does not read."""
    outs = {path: {"md5": "-", "sha256": digest(out.parent / path)} for path in paths}
    stages = {path: {"verdict": "bit-equal", "outs": {path: outs[path]}} for path in paths}
    stages["fetch"] = {"verdict": "bit-equal", "outs": {"out/fetch": {"md5": "-", "sha256": "f" * 64}}}
    return {"stages": stages | changes, "stages_of_the_pipeline": 33, "environment": ENVIRONMENT}


@pytest.fixture
def out(outputs: Callable[..., Path], tmp_path: Path) -> Path:
    (tmp_path / "certificates").mkdir()
    return outputs()


def page(out: Path, runs: Runs, tmp_path: Path) -> str:
    (tmp_path / "report").mkdir()
    found = read_certificates(tmp_path / "certificates", out)
    write_report(read_results(out, runs), 0, tmp_path / "report", found)
    return " ".join((tmp_path / "report/report.html").read_text("utf-8").split())


def test_a_stage_that_failed_is_shown(out: Path, runs: Runs, tmp_path: Path) -> None:
    failed = {"verdict": "failed", "outs": {}, "failed": "no memory"}
    write_json(tmp_path / "certificates/abc123.json", certificate(out, "out/judge", sft=failed))
    assert "failed: sft (no memory)" in page(out, runs, tmp_path)


def test_a_certificate_of_these_outputs_is_shown_with_what_it_was_computed_with(
    out: Path, runs: Runs, tmp_path: Path
) -> None:
    write_json(tmp_path / "certificates/abc123.json", certificate(out, "out/align/metrics/dpo", "out/judge"))
    shown = page(out, runs, tmp_path)
    cells = "<code>abc123</code></th><td>3 of 33</td><td>3</td><td>0</td><td>0</td><td>2</td><td>"
    assert cells in shown.replace(' class="n"', "")
    assert "AMD EPYC with avx512f; Linux x86_64, 2 CPUs; python 3.11.7, torch 2.13.0" in shown
    assert "to other results" not in shown


def test_a_certificate_of_other_outputs_is_counted_and_not_shown(out: Path, runs: Runs, tmp_path: Path) -> None:
    write_json(tmp_path / "certificates/abc123.json", certificate(out, "out/align/metrics/dpo", "out/judge"))
    write_json(tmp_path / "certificates/no-part-of-the-page.json", certificate(out))
    (out / "align/metrics/dpo/metrics.jsonl").write_text("", "utf-8")
    shown = page(out, runs, tmp_path)
    assert "abc123" not in shown and "Reproduced" not in shown
    assert "2 more in <code>certificates/</code> belong to other results" in shown


def test_a_stage_that_differs_is_said_on_the_page(out: Path, runs: Runs, tmp_path: Path) -> None:
    bad = {
        "verdict": "different",
        "outs": {"out/sft": {"md5": "-", "sha256": digest(out / "sft")}},
        "differs": ["out/sft/metrics.jsonl: step 10, loss: recorded 1.0, now 1.1"],
        "likely_cause": "processor features: run once more without ATEN_CPU_CAPABILITY=default, it is bit-equal",
    }
    write_json(tmp_path / "certificates/abc123.json", certificate(out, "out/judge", sft=bad))
    shown = page(out, runs, tmp_path).replace(' class="n"', "")
    assert "<td>3 of 33</td><td>2</td><td>0</td><td>1</td>" in shown
    assert re.search(r"first to differ: sft: out/sft/metrics.jsonl: step 10, loss.*processor features", shown)


def test_a_run_that_is_gone_says_nothing_against_the_others(out: Path, tmp_path: Path) -> None:
    found = certificate(out, "out/judge")
    found["stages"]["align@old"] = {
        "verdict": "bit-equal",
        "outs": {"out/align/metrics/old": {"md5": "-", "sha256": "e" * 64}},
    }
    found["environment"] = ENVIRONMENT | {"processor.variables": "ATEN_CPU_CAPABILITY=default"}
    write_json(tmp_path / "certificates/abc123.json", found)
    (row,) = read_certificates(tmp_path / "certificates", out).rows
    assert row["same"] == 1
    assert row["computed"].startswith("AMD EPYC with avx512f, ATEN_CPU_CAPABILITY=default; Linux")


def test_without_certificates_the_page_does_not_speak_of_them(out: Path, runs: Runs, tmp_path: Path) -> None:
    assert read_certificates(tmp_path / "certificates", out) == NONE
    assert "verify" not in page(out, runs, tmp_path)


def test_another_file_is_refused_in_one_sentence(out: Path, tmp_path: Path) -> None:
    for text in ("{}", "[]", "half a"):
        (tmp_path / "certificates/abc123.json").write_text(text)
        with pytest.raises(UserError, match=r"abc123.json is no certificate of `epsilon-dpo verify`"):
            read_certificates(tmp_path / "certificates", out)


def test_what_it_holds_against_the_outputs_is_what_the_report_declares() -> None:
    deps = read_yaml(ROOT / "dvc.yaml")["stages"]["report"]["deps"]
    assert sorted(code.READ) == sorted(dep.removeprefix("out/") for dep in deps if dep.startswith("out/"))
    assert "certificates" in deps
