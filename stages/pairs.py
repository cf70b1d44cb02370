"""pairs: the preference pairs as token ids, once for all runs."""

from pathlib import Path

from epsilon_dpo.data.pairs.params import PairsView
from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_stage
from epsilon_dpo.pipeline.stage.params import load

with heavy_imports():
    from epsilon_dpo.data.pairs.pairs import in_words, write_pairs
    from epsilon_dpo.data.tokens.tokenizer import load_tokenizer

with run_stage("pairs") as stage:
    params = load(PairsView)
    found = write_pairs(
        params.pairs,
        load_tokenizer(Path("out/base/tokenizer")),
        params.tokens,
        validated=Path("out/validate"),
        ranked=Path("out/ranking/ranked.jsonl"),
        out=stage.out,
    )
    left_out = found["left_out"]
    metrics = {split: found[split] for split in ("train", "eval")} | {
        f"left_out/{why}": n for why, n in left_out.items()
    }
    stage.tracker.log_metrics({f"pairs/{name}": float(count) for name, count in metrics.items()}, step=0)
    of = "" if found["source"] == "dataset" else " of the reference's answers"
    stage.summary = f"{found['train']} training pairs{of} and {found['eval']} evaluation pairs of the dataset"
    if left_out:
        stage.summary += f"; left out: {in_words(left_out)}"
