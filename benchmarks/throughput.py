"""The table of a GPU: tokens per second, share of the peak, memory."""

from argparse import Namespace
from collections.abc import Mapping

import numpy as np
from lockstep import Measured
from pair_lengths import Lengths
from shapes import Shape, real_tokens, useful_flops


def throughput_table(found: Mapping[str, Measured], shape: Shape, lengths: Lengths, args: Namespace) -> str:
    """Markdown; `lengths` are those of all steps of the run, warm-up included."""
    steps = args.rounds + args.warm_up
    lines = ["| variant | s a step [quartiles] | real tokens/s | MFU | peak GB |", "|---|---|---|---|---|"]
    for name, one in found.items():
        low, median, high = np.percentile(one.wall, [25, 50, 75])
        speed = real_tokens(name, lengths) / steps / median
        share = useful_flops(name, shape, lengths) / steps / median / (args.peak_tflops * 1e12)
        lines.append(
            f"| {name} | {median:.3f} [{low:.3f}, {high:.3f}] | {speed:,.0f} | {100 * share:.1f} % "
            f"| {one.peak / 1000:.1f} |"
        )
    return "\n".join(lines)
