"""A training step of ours against one of TRL's DPOTrainer: same Gemma-2, same pairs, whole steps of the real trainers.

    python benchmarks/step.py --quick                                   # two minutes' look
    python benchmarks/step.py --vocab 32000 --pairs 2                   # equal lengths, 128 + 128 tokens
    python benchmarks/step.py --vocab 16000 --layers 14 --pairs 8 --lengths hh
    python benchmarks/step.py --shape gemma-2-2b                        # on a CUDA machine: tokens/s, MFU, peak memory

A step is all that lies between two calls of the trainer's on_step_end: batch, forward, backward, clipping, optimizer,
metrics. On a CPU the variants take turns (see lockstep.py). On a GPU each has the device to itself, one after another.

On a CPU a good part of a step can be page faults, when freed memory was given back and is fetched again. Our stages let
glibc keep it; with --keep-memory all variants run under their settings.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from lockstep import alternate, machine, ratio, table
from pair_lengths import Lengths, equal, like_hh, of_folder
from shapes import PRESETS, Shape
from throughput import throughput_table

CPU_VARIANTS = ("trl_dpo", "ours_dpo", "ours_epsilon", "ours_epsilon_fp32", "naive_epsilon")
GPU_VARIANTS = ("trl_sft", "trl_dpo", "ours_dpo", "ours_epsilon")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=sorted({*CPU_VARIANTS, *GPU_VARIANTS}))
    parser.add_argument("--shape", choices=PRESETS, default="small", help="all sizes but those given apart")
    parser.add_argument("--vocab", type=int, help="vocabulary size, 32000 for the small shape")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--pairs", type=int, default=2, help="per micro-batch")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches per optimizer step")
    parser.add_argument("--lengths", default="equal", help="equal, hh, or a folder of stage pairs (out/pairs)")
    parser.add_argument("--token-chunk", type=int, default=256)
    parser.add_argument("--two-rows", action="store_true", help="ours without the shared prompt")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep-memory", action="store_true", help="all under our stages' settings")
    parser.add_argument("--quick", action="store_true", help="3 rounds at a vocabulary of 2,000")
    parser.add_argument("--throughput", action="store_true", help="the GPU's table on a CPU too: a test of its code")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense bf16 peak for MFU; 989: H100 and H200")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # the variant that this process runs
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    found = parser.parse_args()
    if found.quick:
        found.vocab, found.rounds, found.warm_up = found.vocab or 2000, 3, 1
    return found


def shape_of(args: argparse.Namespace) -> Shape:
    return PRESETS[args.shape].changed(vocab_size=args.vocab, num_hidden_layers=args.layers)


def lengths_of(args: argparse.Namespace) -> Lengths:
    """Of all pairs of the run, each of which is met once."""
    count = args.pairs * args.accumulation * (args.rounds + args.warm_up)
    if args.lengths in ("equal", "hh"):
        return equal(count) if args.lengths == "equal" else like_hh(count)
    there = of_folder(Path(args.lengths))
    return (there * (count // len(there) + 1))[:count]


def main() -> None:
    args = arguments()
    if args.child:
        from training import train  # loads both libraries, which the parent has no use for

        torch.set_num_threads(args.threads)
        train(args.child, shape_of(args), lengths_of(args), args)
        return
    gpu = torch.cuda.is_available()
    if args.shape == "gemma-2-2b" and not gpu and not args.throughput:
        print("gemma-2-2b's shape: not run, this machine has no CUDA device")
        return
    by_throughput = gpu or args.throughput
    variants = args.variants or (GPU_VARIANTS if by_throughput else CPU_VARIANTS)
    with tempfile.TemporaryDirectory() as scratch:
        commands = {name: command(name, scratch) for name in variants}
        if by_throughput:
            found = {}
            for name, one in commands.items():
                found |= alternate({name: one}, args.rounds, args.warm_up)
        else:
            found = alternate(commands, args.rounds, args.warm_up)
    print(f"{described(args)}\n{machine()}\n")
    if by_throughput:
        print(throughput_table(found, shape_of(args), lengths_of(args), args))
        return
    print(table(found, variants[0]))
    one = "ours_epsilon"
    for other in ("ours_dpo", "ours_epsilon_fp32", "naive_epsilon"):
        if one in found and other in found:
            median, low, high = ratio(found, one, other)
            memory = found[one].added / found[other].added
            print(f"\n{one} ÷ {other}: time {median:.3f} [{low:.3f}, {high:.3f}], added memory {memory:.3f}")


def command(variant: str, scratch: str) -> Sequence[str]:
    given = [word for word in sys.argv[1:] if word != "--variants" and word not in CPU_VARIANTS + GPU_VARIANTS]
    return [sys.executable, __file__, *given, "--child", variant, "--scratch", scratch]


def described(args: argparse.Namespace) -> str:
    shape = shape_of(args)
    return (
        f"{args.pairs} pairs x {args.accumulation} of {args.lengths} lengths, vocabulary of {shape.vocab_size}, "
        f"{shape.num_hidden_layers} layers of {shape.hidden_size}, {args.threads} thread(s), {args.rounds} rounds"
    )


if __name__ == "__main__":
    main()
