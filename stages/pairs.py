"""pairs: the preference pairs as token ids, once for all runs."""

from pathlib import Path

from tqdm import tqdm

from epsilon_dpo.data.tokenisation import tokenise_pair
from epsilon_dpo.data.tokenizer_folder import load_tokenizer
from epsilon_dpo.errors import UserError
from epsilon_dpo.on_policy import preference_pairs
from epsilon_dpo.outputs import read_jsonl, write_jsonl
from epsilon_dpo.params.pairs import OnPolicyPairs, PairsView
from epsilon_dpo.params.strict import load
from epsilon_dpo.stage import run_stage

IDS = ("prompt_ids", "chosen_ids", "rejected_ids")

with run_stage("pairs") as stage:
    params = load(PairsView)
    tokenizer = load_tokenizer(Path("out/base/tokenizer"))
    splits = {split: read_jsonl(Path("out/validate") / f"{split}.jsonl") for split in ("train", "eval")}
    if isinstance(params.pairs, OnPolicyPairs):
        ranked = read_jsonl(Path("out/ranking/ranked.jsonl"))
        splits["train"] = preference_pairs(ranked, params.pairs.choose, params.pairs.min_margin)
        write_jsonl(stage.out / "train_text.jsonl", splits["train"])
        if not splits["train"]:
            raise UserError(
                f"No prompt has two answers of the reference whose scores differ by pairs.min_margin = "
                f"{params.pairs.min_margin} ({len(ranked)} have two different answers); lower it, or raise "
                "candidates.temperature."
            )
    for split, pairs in splits.items():
        rows = []
        for pair in tqdm(pairs, desc=f"tokenise {split}", unit="pair"):
            ids = tokenise_pair(tokenizer, pair, params.tokens)
            rows.append({"id": pair["id"], **{name: ids[name] for name in IDS}})
        write_jsonl(stage.out / f"{split}.jsonl", rows)
    stage.tracker.log_metrics({f"pairs/{split}": float(len(pairs)) for split, pairs in splits.items()}, step=0)
    counts = {split: len(pairs) for split, pairs in splits.items()}
    stage.summary = f"{counts['train']} training and {counts['eval']} evaluation pairs ({params.pairs.source})"
