"""The script that docs/rlhf.md names for its column by VADER, on answers written here."""

import subprocess
import sys
from pathlib import Path

import pytest
from whole_pipeline import ROOT

from epsilon_dpo.pipeline.stage.files import write_jsonl

SCRIPT = "benchmarks/second_opinion.py"


def test_vaders_column_is_of_the_answers_and_paired_by_prompt(tmp_path: Path) -> None:
    """Two prompts of two answers: of the reference one is positive and one has no term of the lexicon, of the policy
    three are positive, so that it gains a half on each prompt."""
    pytest.importorskip("vaderSentiment")
    answers = {
        "reference": ("is great", "is awful", "is awful", "is a table"),
        "sample/dpo": ("is great", "is lovely", "is awful", "is great"),
    }
    for folder, texts in answers.items():
        (tmp_path / "out" / folder).mkdir(parents=True)
        rows = [
            {"prompt_id": f"p{n // 2}", "prompt": [{"role": "user", "content": "The film"}], "response": text}
            for n, text in enumerate(texts)
        ]
        write_jsonl(tmp_path / "out" / folder / "samples.jsonl", rows)
    texts = [("good", 1, "held out"), ("bad", 1, "held out"), ("wonderful", 0, "classifier")]
    labelled = [{"id": text, "text": text, "label": label, "part": part} for text, label, part in texts]
    (tmp_path / "out/validate").mkdir()
    write_jsonl(tmp_path / "out/validate/labelled.jsonl", labelled)
    command = [sys.executable, str(ROOT / SCRIPT), str(tmp_path)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    assert printed[0] == "VADER finds the label of 50.0% of the held-out texts."
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed[4:]]
    assert [row[0] for row in rows] == ["reference", "dpo"]
    assert [row[1][:4] for row in rows] == ["0.25", "0.75"]
    assert [row[2:] for row in rows] == [["0.000 ± 0.000", "0.25"], ["0.500 ± 0.000", "0.00"]]


def test_the_page_with_the_column_names_the_script() -> None:
    assert f"`python {SCRIPT}`" in (ROOT / "docs/rlhf.md").read_text("utf-8") and (ROOT / SCRIPT).is_file()
