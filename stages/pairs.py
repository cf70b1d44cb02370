"""pairs: the preference pairs as token ids, once for all runs."""

from pathlib import Path

from tqdm import tqdm

from epsilon_dpo.data.tokenisation import tokenise_pair
from epsilon_dpo.data.tokenizer_folder import load_tokenizer
from epsilon_dpo.outputs import read_jsonl, write_jsonl
from epsilon_dpo.params.pairs import PairsView
from epsilon_dpo.params.strict import load
from epsilon_dpo.stage import run_stage

IDS = ("prompt_ids", "chosen_ids", "rejected_ids")

with run_stage("pairs") as stage:
    params = load(PairsView)
    tokenizer = load_tokenizer(Path("out/base/tokenizer"))
    counts = {}
    for split in ("train", "eval"):
        pairs = read_jsonl(Path("out/validate") / f"{split}.jsonl")
        rows = []
        for pair in tqdm(pairs, desc=f"tokenise {split}", unit="pair"):
            ids = tokenise_pair(tokenizer, pair, params.tokens)
            rows.append({"id": pair["id"], **{name: ids[name] for name in IDS}})
        write_jsonl(stage.out / f"{split}.jsonl", rows)
        counts[split] = len(rows)
    stage.tracker.log_metrics({f"pairs/{split}": float(count) for split, count in counts.items()}, step=0)
    stage.summary = f"{counts['train']} training and {counts['eval']} evaluation pairs from the {params.pairs.source}"
