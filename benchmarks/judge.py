"""Pairs of answers that PairRM judges in a second: ours against plain loops, with the same scores.

    python benchmarks/judge.py --quick                                # a minute's look
    python benchmarks/judge.py                                        # lengths like those of HH's single-turn pairs
    python benchmarks/judge.py --hh FOLDER                            # HH's own single-turn pairs (--turns all: all)
    python benchmarks/judge.py --layers 2 --hidden-size 64            # the size of the judge that the pipeline trains
    python benchmarks/judge.py --variants loop model_card ours --rounds 3

A PairRM of random weights, whose tokenizer is learnt from the texts, judges every pair in both orders:

    loop          a pair and an order at a time, no padding, no gradients: the fastest plain loop on a CPU
    batches       batches of 8 pairs in the order given, padded to their longest
    model_card    as the card of llm-blender/PairRM-hf has it, each row padded to 2,048 tokens (one pair a turn;
                  by request, for it is slow)
    ours          PairRMJudge
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hh import hh_rows
from lockstep import Turns, alternate, machine
from transformers import DebertaV2Config

from epsilon_dpo.judging.judges.layout import Layout, Pair
from epsilon_dpo.judging.judges.pairrm import PairRM
from epsilon_dpo.judging.judges.pairrm_folder import DEBERTA_V3_LARGE
from epsilon_dpo.judging.judges.pairrm_judge import PairRMJudge, with_fast_layers
from epsilon_dpo.judging.judges.source_text import pair_text
from epsilon_dpo.judging.making.small_pairrm import small_tokenizer
from epsilon_dpo.pipeline.stage.runtime import on_device

SOURCE_MAX, CANDIDATE_MAX = 1224, 412  # PairRM's
VARIANTS = ("loop", "batches", "model_card", "ours")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hh", type=Path, help="a folder of HH's subsets; without it, lengths are drawn")
    parser.add_argument("--turns", choices=("single", "all"), default="single", help="of HH's dialogues")
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden-size", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=64, help="of ours, at most")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=("loop", "batches", "ours"))
    parser.add_argument("--quick", action="store_true", help="16 pairs, 3 rounds")
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--scores", type=Path, help=argparse.SUPPRESS)
    found = parser.parse_args()
    if found.quick:
        found.pairs, found.rounds = 16, 3
    return found


def main() -> None:
    args = arguments()
    if args.child:
        child(args)
        return
    with tempfile.TemporaryDirectory() as scores:
        command = [sys.executable, __file__, *sys.argv[1:], "--scores", scores, "--child"]
        found = alternate({name: [*command, name] for name in args.variants}, args.rounds, warm_up=1)
        given = {name: np.load(Path(scores) / f"{name}.npy") for name in args.variants}
    kind = f"HH's pairs ({args.turns} turns)" if args.hh else "pairs with lengths like HH's single turns"
    device = "a GPU" if torch.cuda.is_available() else f"{args.threads} thread(s)"
    print(
        f"{args.pairs} {kind}, {args.layers} layers of {args.hidden_size}, {device}, {args.rounds} rounds\n{machine()}"
    )
    print("\n| variant | pairs a second | ours ÷ it [quartiles] | largest difference of a score | added MB |")
    print("|---|---|---|---|---|")
    for name, one in found.items():
        # A GPU's time is not in the CPU seconds of a process; there the wall clock has to do.
        seconds = {key: np.array(found[key].wall if torch.cuda.is_available() else found[key].cpu) for key in found}
        speed = len(given[name]) / seconds[name]
        ratios = len(given["ours"]) / seconds["ours"] / speed if "ours" in found else speed * np.nan
        low, median, high = np.percentile(ratios, [25, 50, 75])
        shared = min(len(given[name]), len(given[args.variants[0]]))
        apart = np.abs(given[name][:shared] - given[args.variants[0]][:shared]).max()
        ratio = f"{median:.2f} [{low:.2f}, {high:.2f}]"
        print(f"| {name} | {np.median(speed):.2f} | {ratio} | {apart:.1e} | {one.added:.0f} |")


def child(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    pairs = of_hh(args) if args.hh else like_hh_single(args.pairs)
    layout = Layout(small_tokenizer((text for pair in pairs for text in pair), 8000), SOURCE_MAX, CANDIDATE_MAX)
    sizes = {
        "vocab_size": len(layout.tokenizer),
        "hidden_size": args.hidden_size,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.hidden_size // min(64, args.hidden_size // 4),
        "intermediate_size": 4 * args.hidden_size,
        "pooler_hidden_size": args.hidden_size,
    }
    config = DebertaV2Config(**{**DEBERTA_V3_LARGE, **sizes}, n_tasks=1, drop_out=0.05)
    model = on_device(PairRM(config, layout.marker_ids).eval())
    judge = PairRMJudge(with_fast_layers(model) if args.child == "ours" else model, layout, args.batch_size)
    steps: dict[str, Callable[[], list[tuple[float, float]]]] = {
        "loop": lambda: [score for pair in pairs for score in plain(model, layout, [pair])],
        "batches": lambda: [s for i in range(0, len(pairs), 8) for s in plain(model, layout, pairs[i : i + 8])],
        "model_card": lambda: plain(model, layout, pairs[:1], SOURCE_MAX + 2 * CANDIDATE_MAX),
        "ours": lambda: [(verdict.f_ab, verdict.f_ba) for verdict in judge.compare_texts(pairs)],
    }
    turns = Turns()
    while True:
        turns.pause()
        np.save(args.scores / f"{args.child}.npy", steps[args.child]())


@torch.no_grad()
def plain(model: PairRM, layout: Layout, pairs: list[Pair], width: int | None = None) -> list[tuple[float, float]]:
    """Both orders of `pairs`, one forward each, padded to `width` or to the longest."""
    found = []
    for ordered in (pairs, [Pair(source, b, a) for source, a, b in pairs]):
        rows = [layout.encode(pair).ab for pair in ordered]
        batch = layout.tokenizer.pad(
            {"input_ids": rows},
            padding="max_length" if width else "longest",
            max_length=width,
            return_tensors="pt",
        )
        place = next(model.parameters()).device
        found.append(model(batch["input_ids"].to(place), batch["attention_mask"].to(place)).tolist())
    return list(zip(*found, strict=True))


def like_hh_single(count: int) -> list[Pair]:
    """Random words, log-normal in number as the tokens of HH harmless-base/test's 662 single-turn pairs.

    Those have 14 in the prompt, 29 in the chosen and 37 in the rejected answer on average, 89 with the special ones.
    """
    random = np.random.default_rng(0)
    words = np.array([f"{first}{second}" for first in "bdfgklmnprst" for second in ("a", "en", "ir", "o", "ust")])
    sizes = (
        np.exp(random.normal([2.48, 2.93, 3.18], [0.55, 0.97, 0.97], size=(count, 3))).clip(1, 400).round().astype(int)
    )
    return [Pair(*(" ".join(random.choice(words, size)) for size in row)) for row in sizes]


def of_hh(args: argparse.Namespace) -> list[Pair]:
    """The first pairs of HH's test files: chosen against rejected."""
    rows = [row for row in hh_rows(args.hh, "test") if args.turns == "all" or len(row["chosen"]) == 2]
    same = [row for row in rows if row["chosen"][:-1] == row["rejected"][:-1]]
    return [
        pair_text(row["chosen"][:-1], row["chosen"][-1]["content"], row["rejected"][-1]["content"])
        for row in same[: args.pairs]
    ]


if __name__ == "__main__":
    main()
