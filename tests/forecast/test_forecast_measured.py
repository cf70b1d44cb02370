"""The forecast against the peak of a real training in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "forecast.py"


@pytest.mark.slow
@pytest.mark.campaign  # the other tests of the forecast hold it against a simulated step
def test_a_training_s_peak_is_within_15_percent() -> None:
    """ε-DPO with accumulation: 160 MB of weights, and 1 GB in all."""
    command = [sys.executable, str(SCRIPT), "--only", "ε-DPO, the same in 4 micro-batches"]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=900).stdout
    *_, forecast, measured, ratio, process = (cell.strip() for cell in printed.splitlines()[-1].strip("| ").split("|"))
    assert float(forecast) > 800 and 800 < float(measured) < float(process)
    assert 0.85 <= float(ratio) <= 1.15
