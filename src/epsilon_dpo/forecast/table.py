"""The forecast as a person reads it: a line per stage, what was assumed, and whether it fits."""

from epsilon_dpo.forecast.lengths import PAIRS
from epsilon_dpo.forecast.machine import RESERVE, batch_of
from epsilon_dpo.forecast.needs import Needs
from epsilon_dpo.forecast.trainings import Given
from epsilon_dpo.training.loop.params import Adaptable

MEMORY = ("memory", "weights", "gradients", "AdamW", "reference", "activations", "head", "other")
COLUMNS = ("stage", *MEMORY, "FLOPs", "hours", "out/", "scratch/")


def table(of: Given, needs: list[Needs]) -> str:
    lines = [_model(of), "", *_aligned([COLUMNS, *(_row(one) for one in needs)])]
    lines += [f"  {one.stage}: {one.note.removesuffix('.')}." for one in needs if one.note]
    lines += ["", *_assumptions(of, needs)]
    if of.machine.memory is not None:
        lines += ["", _fits(of, needs)]
    return "\n".join(lines)


def _model(of: Given) -> str:
    sizes, machine = of.sizes, of.machine
    where = "the CPU" if not machine.gpus else f"{machine.gpus} GPU{'s' if machine.gpus > 1 else ''}"
    if machine.gpus > 1:
        where += " with FSDP2" if machine.shards else " with DDP"
    return (
        f"{sizes.parameters / 1e6:,.1f} M parameters ({sizes.layers} layers of {sizes.hidden}, a vocabulary of "
        f"{sizes.vocabulary:,}), on {where}. Memory per {'GPU' if machine.gpus else 'process'} and disk in GB."
    )


def _row(one: Needs) -> tuple[str, ...]:
    name = one.stage if not one.runs or one.stage != "align" else f"align@{_few(one.runs)}"
    if one.memory is None:
        memory = ["–"] * len(MEMORY)
    else:
        split = one.memory
        parts = (split.weights, split.gradients, split.optimizer, split.reference, split.activations, split.head)
        memory = [_gb(split.total), *(_gb(part) for part in (*parts, split.other))]
    work = "–" if one.flops is None else f"{one.flops:.2g}"
    time = "–" if one.hours is None else f"{one.hours:.2g}"
    return name, *memory, work, time, _gb(one.disk.out), _gb(one.disk.scratch)


def _few(runs: list[str]) -> str:
    return runs[0] if len(runs) == 1 else f"{runs[0]} and {len(runs) - 1} more"


def _gb(size: float) -> str:
    return "" if size == 0 else f"{size / 1e9:.3g}" if size >= 1e7 else "<.01"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _assumptions(of: Given, needs: list[Needs]) -> list[str]:
    machine, train = of.machine, of.train
    if train.measured:
        lengths = f"Lengths and the number of pairs are those of {PAIRS}"
        if of.params.candidates is not None:
            lengths += "; the dataset's, of sft and candidates, are taken to be as long as tokens.max_length allows"
    else:
        pairs = "an unknown number of pairs (--pairs N)"
        if train.count is not None:
            pairs = "1 pair" if train.count == 1 else f"{train.count:,} pairs"
        lengths = f"{pairs}, each as long as tokens.max_length allows: memory, FLOPs and hours are upper bounds"
        lengths += f"; {PAIRS} is of the project's own params.yaml and not used" * train.passed_over
    if machine.gpus:
        whose = "an H100's peak" if machine.peak is None else "the given peak"
        bf16, float32 = (machine.peak_in(half) / 1e12 for half in (True, False))
        peak = f"{whose} ({bf16:g} TFLOP/s in bf16, {float32:.3g} in float32)"
    else:
        peak = "0.1 TFLOP/s a thread" if machine.peak is None else f"{machine.peak / 1e12:g} TFLOP/s"
    return [
        f"{lengths[0].upper()}{lengths[1:]}.",
        f"Hours: FLOPs at {machine.mfu:g} of {peak}, an assumption; all runs of a line one after the other.",
        *([] if machine.gpus else ["Memory: of tensors; glibc's gaps come on top (docs/forecast.md)."]),
        "Disk: DVC's cache holds out/ once more, unless it links; scratch/ has three checkpoints for a moment.",
    ]


def _fits(of: Given, needs: list[Needs]) -> str:
    """Of the stage that needs most."""
    machine = of.machine
    assert machine.memory is not None
    most = max((one for one in needs if one.memory is not None), key=lambda one: one.memory.total if one.memory else 0)
    assert most.memory is not None
    usable, needed = (1 - RESERVE) * machine.memory, most.memory.total
    size = f"{needed / 1e9:.3g} GB of {machine.memory / 1e9:g} GB per GPU"
    said = f"{_row(most)[0]} needs {size}, a tenth of which is left free"
    if needed <= usable:
        return f"It fits: {said}."
    return f"It does not fit: {said}; {_remedy(of, most)}."


def _remedy(of: Given, most: Needs) -> str:
    """The key that helps most, the cheaper ones first."""
    memory, machine = most.memory, of.machine
    block = {"sft": of.params.sft, "align": of.params.align}.get(most.stage)
    assert memory is not None
    room = (1 - RESERVE) * (machine.memory or 0) - (memory.total - memory.activations - memory.head)
    if block is None:
        what = _key_of_batch(of, most.stage)
        return f"lower {what}" if room > 0 else f"no {what} changes that, take a larger GPU for this stage"
    if room > 0:
        return _smaller_batch(most.stage, block)
    more = f"--gpus {2 * machine.processes}" if machine.shards or machine.gpus <= 1 else "--shard fsdp"
    return f"take more GPUs with FSDP ({more})" + ("" if block.lora else f", or set {most.stage}.lora")


def _key_of_batch(of: Given, stage: str) -> str:
    """The judge's is that of its own block, whichever of the two stages asks it."""
    if stage not in ("judge", "score"):
        return f"{stage}.batch_size"
    return "judge.micro_batch_size" if hasattr(of.params.judge, "micro_batch_size") else "judge.batch_size"


def _smaller_batch(stage: str, block: Adaptable) -> str:
    if not block.gradient_checkpointing:
        return f"set {stage}.gradient_checkpointing to true, or lower the micro-batch"
    if not block.bf16:
        return f"set {stage}.bf16 to true, or lower the micro-batch"
    if batch_of(block).micro > 1:
        return f"lower {stage}.micro_batch_size"
    return "lower tokens.max_length"
