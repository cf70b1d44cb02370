"""pairs: the preference pairs as token ids, once for all runs."""

from collections import Counter
from pathlib import Path

from tqdm import tqdm

from epsilon_dpo.data.on_policy_contract import fit_to_train_on
from epsilon_dpo.data.tokenisation import tokenise_pair
from epsilon_dpo.data.tokenizer_folder import load_tokenizer
from epsilon_dpo.errors import UserError
from epsilon_dpo.on_policy import preference_pairs
from epsilon_dpo.outputs import read_jsonl, write_json, write_jsonl
from epsilon_dpo.params.pairs import OnPolicyPairs, PairsView
from epsilon_dpo.params.strict import load
from epsilon_dpo.stage import run_stage

IDS = ("prompt_ids", "chosen_ids", "rejected_ids")

with run_stage("pairs") as stage:
    params = load(PairsView)
    tokenizer = load_tokenizer(Path("out/base/tokenizer"))
    splits = {split: read_jsonl(Path("out/validate") / f"{split}.jsonl") for split in ("train", "eval")}
    left_out: Counter[str] = Counter()
    if isinstance(params.pairs, OnPolicyPairs):
        ranked = read_jsonl(Path("out/ranking/ranked.jsonl"))
        pairs, too_close = preference_pairs(ranked, params.pairs.choose, params.pairs.min_margin)
        splits["train"], unfit = fit_to_train_on(tokenizer, pairs, params.tokens)
        write_jsonl(stage.out / "train_text.jsonl", splits["train"])
        write_jsonl(stage.out / "dropped.jsonl", too_close + unfit)
        left_out = Counter(pair["reason"] for pair in too_close + unfit)
        if not splits["train"]:
            raise UserError(
                f"Of {len(ranked)} prompts with two different answers of the reference none gives a pair (left out: "
                f"{dict(left_out)}); lower pairs.min_margin = {params.pairs.min_margin}, or raise "
                "candidates.temperature."
            )
    for split, rows in splits.items():
        tokenised = []
        for row in tqdm(rows, desc=f"tokenise {split}", unit="pair"):
            ids = tokenise_pair(tokenizer, row, params.tokens)
            tokenised.append({"id": row["id"], **{name: ids[name] for name in IDS}})
        write_jsonl(stage.out / f"{split}.jsonl", tokenised)
    counts = {split: len(rows) for split, rows in splits.items()}
    write_json(stage.out / "pairs.json", {"source": params.pairs.source, **counts, "left_out": left_out})
    metrics = counts | {f"left_out/{reason}": count for reason, count in left_out.items()}
    stage.tracker.log_metrics({f"pairs/{name}": float(count) for name, count in metrics.items()}, step=0)
    stage.summary = f"{counts['train']} training and {counts['eval']} evaluation pairs ({params.pairs.source})"
    if left_out:
        stage.summary += "; left out: " + ", ".join(f"{count} {reason}" for reason, count in left_out.items())
