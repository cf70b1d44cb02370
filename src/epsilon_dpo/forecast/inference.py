"""The stages that run models without training one: candidates, sample, kl, monotonicity.

Each process holds its models entirely.
"""

import torch

from epsilon_dpo.forecast.flops import Products, flops, of_sampling
from epsilon_dpo.forecast.lengths import Form, Lengths, two_rows
from epsilon_dpo.forecast.live import ACTIVATIONS
from epsilon_dpo.forecast.memory import Memory, unsharded
from epsilon_dpo.forecast.needs import Disk, Needs, hours
from epsilon_dpo.forecast.simulation import Rows, passes, reading
from epsilon_dpo.forecast.trainings import (
    BYTES,
    Given,
    merged_copy,
    methods_of,
    policies_of,
    policy_dtype,
    sft_is_adapter,
)
from epsilon_dpo.sampling.answers.params import Sample
from epsilon_dpo.sampling.decoding.decoding import PROMPTS_AT_ONCE
from epsilon_dpo.sampling.on_policy.params_candidates import Candidates

PASS = Products(projections=2, attention=2, head=2)  # of policy and reference
LOGITS = 3  # tensors of next-token logits at once: the model's, by temperature, with noise
VLLM = "vLLM takes 0.9 of the GPU, whatever it needs"


def of_candidates(of: Given) -> Needs | None:
    """The reference's own answers to the training prompts. None: `candidates: null`."""
    block = of.params.candidates
    if block is None:
        return None
    answers = _answers(block, of.train)  # at most: a prompt of several pairs is answered once
    adapter = sft_is_adapter(of.params)
    return _sampling(of, block, of.train, policy_dtype(of.params), "candidates", [], answers, adapter)


def of_sample(of: Given, evaluation: Lengths) -> Needs:
    """Of the reference and every policy."""
    block = of.params.sample
    # An aligned adapter is merged in float32 too (models/policy/folder.py).
    dtype = policy_dtype(of.params) if of.params.align.lora is None else torch.float32
    answers = _answers(block, evaluation)
    answers = None if answers is None else answers * (1 + policies_of(of, methods_of(of)))
    adapter = sft_is_adapter(of.params) or of.params.align.lora is not None
    return _sampling(of, block, evaluation, dtype, "sample", list(of.params.runs), answers, adapter)


def _sampling(
    of: Given,
    block: Sample | Candidates,
    lengths: Lengths,
    dtype: torch.dtype,
    stage: str,
    runs: list[str],
    answers: int | None,
    adapter: bool,
) -> Needs:
    """A cache of keys and values, 2 x layers x width of keys per token, is what grows (Pope et al. 2022, arXiv
    2211.05102, section 3.3); each row has as many columns as the longest."""
    sizes, width = of.sizes, BYTES[dtype]
    prompt = int(lengths.prompt.max()) if lengths.measured else of.params.tokens.max_prompt_length
    columns = prompt + block.max_new_tokens
    cache = 2.0 * sizes.layers * sizes.keys * width * block.batch_size * columns
    prompts = Rows(min(PROMPTS_AT_ONCE, block.batch_size), prompt, 1)
    read = reading(of.config, dtype, prompts).peak[ACTIVATIONS]
    memory = Memory(
        weights=sizes.parameters * width,
        gradients=0.0,
        optimizer=0.0,
        reference=0.0,
        # One layer's part of the cache at a time is copied; new prompts are read beside the answers that go on.
        activations=cache + max(2 * cache / sizes.layers, read),
        head=LOGITS * 4.0 * sizes.vocabulary * block.batch_size,
        other=0.0,
    )
    one = of_sampling(sizes, float(lengths.prompt.mean()) if lengths.measured else prompt, block.max_new_tokens)
    work = None if answers is None else answers * one
    note = VLLM if block.backend == "vllm" else ""
    # Each process of a launcher answers its share of the prompts; vLLM is one.
    gpus = min(of.machine.gpus, 1) if note else of.machine.gpus
    disk = Disk(out=0.0, scratch=merged_copy(of) if note and adapter else 0.0)  # vLLM reads full models alone
    # No time: a step of decoding reads all weights for one token of each row, so that FLOPs say little of it.
    return Needs(stage, runs, None if note else memory, gpus, work, None, disk, note)


def of_kl(of: Given, evaluation: Lengths) -> Needs:
    """Reference's answers, policies' and all chosen ones under both models, in float32 (analysis/kl/records.py)."""
    block, sample = of.params.kl, of.params.sample
    prompt = int(evaluation.prompt.max()) if evaluation.measured else of.params.tokens.max_prompt_length
    longest = max(sample.max_new_tokens, int(evaluation.chosen.max()))
    columns = max(prompt + sample.max_new_tokens, int((evaluation.prompt + evaluation.chosen).max()))
    rows = Rows(block.batch_size, columns, block.batch_size * longest)
    memory = unsharded(passes(of.config, torch.float32, rows, block.token_chunk, of.machine.device))
    form = Form(rows.columns, rows.columns, float(rows.columns) ** 2, longest, longest)
    answers, pairs, work = _answers(sample, evaluation), evaluation.count, None
    if answers is not None and pairs is not None:
        work = policies_of(of, methods_of(of)) * (2 * answers + pairs) * flops(of.sizes, form, PASS)
    time = hours(work, of.machine, False, 1)
    return Needs("kl", list(of.params.runs), memory, min(of.machine.gpus, 1), work, time)


def of_monotonicity(of: Given, evaluation: Lengths) -> Needs:
    """Every evaluation pair under both models; the batch counts pairs."""
    block = of.params.monotonicity
    form = two_rows(evaluation)
    rows = Rows(2 * block.batch_size, form.columns, block.batch_size * form.most_scored)
    memory = unsharded(passes(of.config, torch.float32, rows, block.token_chunk, of.machine.device))
    work = None if evaluation.count is None else evaluation.count * flops(of.sizes, form, PASS) * len(of.params.runs)
    time = hours(work, of.machine, False, 1)
    return Needs("monotonicity", list(of.params.runs), memory, min(of.machine.gpus, 1), work, time)


def prompts_of(block: Sample | Candidates, count: int | None) -> int | None:
    """Prompts that are answered, of so many at most; None: it is not known how many."""
    counts = [most for most in (count, block.max_prompts) if most is not None]
    return min(counts) if counts else None


def _answers(block: Sample | Candidates, lengths: Lengths) -> int | None:
    """How many a policy is sampled for; None: it is not known how many prompts there are."""
    prompts = prompts_of(block, lengths.count)
    return None if prompts is None else prompts * block.samples_per_prompt
