"""validate: the dataset against its contract, as text and as tokens; a bad dataset stops here."""

import shutil
from pathlib import Path

from epsilon_dpo.data.contract.params import ValidateView
from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_stage
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.params import load

with heavy_imports():
    from epsilon_dpo.data.contract.contract import SPLITS, validate
    from epsilon_dpo.data.contract.page import page
    from epsilon_dpo.data.tokenizer.folder import load_tokenizer

with run_stage("validate") as stage:
    params = load(ValidateView)
    fetched = Path("out/fetch")
    dialogues = {split: read_jsonl(fetched / f"{split}.jsonl") for split in SPLITS}
    outcome = validate(dialogues, load_tokenizer(Path("out/base/tokenizer")), params.tokens, params.contract)
    for split in SPLITS:
        write_jsonl(stage.out / f"{split}.jsonl", outcome.pairs[split])
    write_jsonl(stage.out / "dropped.jsonl", outcome.dropped)
    write_json(stage.out / "validation.json", outcome.result)
    shutil.copyfile(fetched / "dataset.json", stage.out / "dataset.json")
    (stage.out / "validation.html").write_text(page(outcome, read_json(fetched / "dataset.json")), "utf-8")
    for split, counts in outcome.result["splits"].items():
        stage.tracker.log_metrics({f"{split}/{name}": float(count) for name, count in counts.items()}, step=0)
    kept = " and ".join(f"{len(outcome.pairs[split])} {split}" for split in SPLITS)
    dropped = sum(counts["dropped"] for counts in outcome.result["splits"].values())
    stage.summary = f"{kept} pairs kept, {dropped} rows dropped"
