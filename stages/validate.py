"""validate: the dataset against its contract, as text and as tokens; a bad dataset stops here."""

import shutil
from pathlib import Path

from epsilon_dpo.data.contract.params import ValidateView
from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_stage
from epsilon_dpo.pipeline.stage.files import JsonlFile, read_json, write_json
from epsilon_dpo.pipeline.stage.params import load

with heavy_imports():
    from epsilon_dpo.data.contract.contract import metrics, validate_files
    from epsilon_dpo.data.contract.page import page
    from epsilon_dpo.data.tokens.tokenizer import load_tokenizer

with run_stage("validate") as stage:
    params = load(ValidateView)
    fetched = Path("out/fetch")
    tokenizer = load_tokenizer(Path("out/base/tokenizer"))
    result = validate_files(fetched, tokenizer, params.tokens, params.contract, stage.out)
    write_json(stage.out / "validation.json", result)
    shutil.copyfile(fetched / "dataset.json", stage.out / "dataset.json")
    if (fetched / "labelled.jsonl").exists():  # for a judge that learns from them: it reads what follows the contract
        shutil.copyfile(fetched / "labelled.jsonl", stage.out / "labelled.jsonl")
    dropped, dataset = JsonlFile(stage.out / "dropped.jsonl"), read_json(fetched / "dataset.json")
    (stage.out / "validation.html").write_text(page(result, dropped, dataset), "utf-8")
    stage.tracker.log_metrics(metrics(result), step=0)
    splits = result["splits"]
    kept = " and ".join(f"{counts['kept']} {split}" for split, counts in splits.items())
    left_out = sum(counts["dropped"] for counts in splits.values())
    stage.summary = f"{kept} pairs kept, {left_out} rows dropped"
