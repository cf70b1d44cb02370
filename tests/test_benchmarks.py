"""The scripts behind docs/performance.md still run, at their smallest, and what they compare is equal."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.campaign]


def table(script: str, *arguments: str) -> dict[str, list[str]]:
    """The cells of the printed table's rows, by the first of each."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600).stdout
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    return {name: cells for name, *cells in rows}


def test_steps_of_all_variants_on_a_cpu() -> None:
    found = table("step.py", "--shape", "tiny", "--rounds", "1", "--warm-up", "0")
    for name in ("trl_dpo", "ours_dpo", "ours_epsilon", "ours_epsilon_fp32", "naive_epsilon"):
        cpu, _, wall, added, _ = found[name]
        assert float(cpu) > 0 < float(wall) and float(added) > 0


def test_the_table_that_a_gpu_gets() -> None:
    found = table("step.py", "--shape", "tiny", "--rounds", "1", "--warm-up", "0", "--throughput")
    assert {"trl_sft", "trl_dpo", "ours_dpo", "ours_epsilon"} < set(found)


def test_slots_of_a_shared_prompt() -> None:
    found = table("tokens.py")
    assert float(found["one_row_cut"][0]) < float(found["one_row"][0]) < float(found["two_rows"][0])


def test_sampling_reaches_the_lengths_in_either_way() -> None:
    found = table("sampling.py", "--prompts", "12", "--vocab", "200", "--rounds", "1")
    assert float(found["ours"][2]) < float(found["plain"][2])  # slots a useful token


def test_the_judge_s_scores_are_the_loop_s() -> None:
    sizes = ("--pairs", "6", "--layers", "2", "--hidden-size", "64")
    found = table("judge.py", *sizes, "--rounds", "1")
    for name in ("batches", "ours"):
        assert 0 < float(found[name][2]) < 1e-5
