"""The forecast as a person reads it: a line per stage, what was assumed, and whether it fits."""

from dataclasses import astuple

from epsilon_dpo.forecast.judges import ASKED, MADE
from epsilon_dpo.forecast.lengths import PAIRS
from epsilon_dpo.forecast.machine import RESERVE
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
        lines += ["", _fits(of, needs, of.machine.memory)]
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
    memory = ["–"] * len(MEMORY)
    if one.memory is not None:
        memory = [_gb(size) for size in (one.memory.total, *astuple(one.memory))]  # in the order of MEMORY
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
        if train.passed_over:
            lengths += f"; {PAIRS} is not of what is asked about, and not used"
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
        "Disk: DVC's cache holds out/ once more, unless it links; scratch/ has three checkpoints for a moment, and an "
        "adapter that is merged for QLoRA or vLLM.",
    ]


def _fits(of: Given, needs: list[Needs], memory: float) -> str:
    """Of the stage that needs most, on GPUs of `memory` bytes."""
    known = ((one, one.memory) for one in needs if one.memory is not None)
    most, needed = max(known, key=lambda both: both[1].total)
    usable = (1 - RESERVE) * memory
    size = f"{needed.total / 1e9:.3g} GB of {memory / 1e9:g} GB per GPU"
    said = f"{_row(most)[0]} needs {size}, a tenth of which is left free"
    if needed.total <= usable:
        return f"It fits: {said}."
    room = usable - (needed.total - needed.activations - needed.head)
    return f"It does not fit: {said}; {_remedy(of, most.stage, room)}."


def _remedy(of: Given, stage: str, room: float) -> str:
    """The key that helps most, the cheaper ones first.

    Args:
        room: bytes that what grows with the batch may have.
    """
    machine = of.machine
    block = {"sft": of.params.sft, "align": of.params.align}.get(stage)
    if block is None:
        what = _key_of_batch(of, stage)
        return f"lower {what}" if room > 0 else f"no {what} changes that, take a larger GPU for this stage"
    if room > 0:
        return _smaller_batch(stage, block)
    if block.lora is not None and block.lora.quantise is not None:
        return "take a larger GPU, since FSDP shards no quantised weights"
    more = f"--gpus {2 * machine.processes}" if machine.shards or machine.gpus <= 1 else "--shard fsdp"
    return f"take more GPUs with FSDP ({more})" + ("" if block.lora else f", or set {stage}.lora")


def _key_of_batch(of: Given, stage: str) -> str:
    """A judge's is that of its own block, wherever it is asked."""
    for block, judge in of.params.judges.items():
        if stage in (MADE[block], ASKED[block]):
            return f"{block}.micro_batch_size" if hasattr(judge, "micro_batch_size") else f"{block}.batch_size"
    return f"{stage}.batch_size"


def _smaller_batch(stage: str, block: Adaptable) -> str:
    if not block.gradient_checkpointing:
        return f"set {stage}.gradient_checkpointing to true, or lower the micro-batch"
    if not block.bf16:
        return f"set {stage}.bf16 to true, or lower the micro-batch"
    if block.micro_batch_size > 1:
        return f"lower {stage}.micro_batch_size"
    return "lower tokens.max_length"
