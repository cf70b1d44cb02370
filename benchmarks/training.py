"""The variants of step.py: each a complete trainer whose steps wait for their turn."""

import os
from argparse import Namespace
from typing import Any

import torch
from datasets import Dataset
from lockstep import Turns, taking_turns
from pair_lengths import Lengths, pairs_of
from shapes import Shape
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.stage.runtime import set_up
from epsilon_dpo.training.alignment.pair_data import PairData
from epsilon_dpo.training.alignment.pair_metrics import pair_metrics
from epsilon_dpo.training.alignment.trainer import PreferenceTrainer

BETA, EPSILON = 0.1, 0.01


def train(variant: str, shape: Shape, lengths: Lengths, args: Namespace) -> None:
    """Build the variant's trainer on pairs of these lengths, and let it step whenever the parent says so."""
    os.environ["CI"] = "1"  # a TRL trainer reports its use to its authors, except in CI
    if args.keep_memory:
        set_up(0, args.threads)
    turns = Turns()
    trainer = _trainer(variant, shape, pairs_of(lengths, shape.vocab_size), args)
    trainer.add_callback(taking_turns(turns))  # the last callback: what the trainer does after a step is part of it
    trainer.train()


def _trainer(variant: str, shape: Shape, pairs: list[dict[str, Any]], args: Namespace) -> Trainer:
    settings = {
        "output_dir": str(args.scratch / variant),
        "per_device_train_batch_size": args.pairs,
        "gradient_accumulation_steps": args.accumulation,
        "optim": "adamw_torch_fused",
        "learning_rate": 1e-5,
        "max_grad_norm": 1.0,
        "logging_steps": 1,  # as the pipeline
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "activation_checkpointing": False,
    }
    if variant == "trl_sft":
        rows = [
            {
                "input_ids": pair["prompt_ids"] + pair["chosen_ids"],
                "completion_mask": [0] * len(pair["prompt_ids"]) + [1] * len(pair["chosen_ids"]),
            }
            for pair in pairs
        ]
        config = SFTConfig(**settings, max_length=None, completion_only_loss=True)
        return SFTTrainer(_model(shape, 0), config, train_dataset=Dataset.from_list(rows), processing_class=_words())
    models = _model(shape, 0), _model(shape, 1)
    if variant == "trl_dpo":
        config = DPOConfig(**settings, beta=BETA, max_length=None)
        return _Tokenized(*models, config, train_dataset=Dataset.from_list(pairs), processing_class=_words())
    entry = {"method": "dpo", "beta": BETA}
    if variant != "ours_dpo":
        precision = "exact" if variant == "ours_epsilon" else "fp32"
        entry = {"method": "epsilon_dpo", "beta": BETA, "epsilon": EPSILON, "step_precision": precision}
    kind = _Naive if variant == "naive_epsilon" else PreferenceTrainer
    # The whole optimizer step, and how much of it at once: training/loop/whole_steps.py.
    settings |= {
        "per_device_train_batch_size": args.pairs * args.accumulation,
        "per_device_eval_batch_size": args.pairs,
        "gradient_accumulation_steps": 1,
    }
    return kind(
        *models,
        method=method_of("x", entry),
        token_chunk=args.token_chunk,
        args=TrainingArguments(**settings, remove_unused_columns=False, include_num_input_tokens_seen="non_padding"),
        train_dataset=PairData(pairs),
        eval_dataset=PairData(pairs[:1]),
        pad_token_id=0,
        callbacks=[],
        share_prompt=variant != "naive_epsilon" and not args.two_rows,
    )


def _model(shape: Shape, seed: int) -> Gemma2ForCausalLM:
    """Random weights: float32 on a CPU, bfloat16 on a GPU."""
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "eager"}
    with torch.device(device):
        model = Gemma2ForCausalLM(Gemma2Config(**shape.config(), **special))
    return model.to(torch.bfloat16) if device == "cuda" else model


def _words() -> PreTrainedTokenizerFast:
    """A tokenizer that TRL asks for its special tokens alone."""
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<end_of_turn>"}
    words = {word: number for number, word in enumerate(special.values())}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")), **special)


class _Tokenized(DPOTrainer):
    """TRL's trainer on pairs that are token ids already, in the form that its own preparation ends with."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


class _Naive(PreferenceTrainer):
    """ε-DPO as its released code computes it: all logits of both models, their mixtures, and four log-softmaxes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model.set_attn_implementation("eager")  # nothing is computed again

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        rows = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        mask = inputs["completion_mask"][:, 1:]
        labels = inputs["input_ids"][:, 1:, None]
        f = model(**rows, use_cache=False).logits[:, :-1]
        with torch.no_grad():
            g = self.reference.model(**rows, use_cache=False).logits[:, :-1]
        logits = {
            "policy": f,
            "reference": g,
            "logps_beta_minus": (1 + EPSILON) * f - EPSILON * g,
            "logps_beta_plus": (1 - EPSILON) * f + EPSILON * g,
        }
        sums = {name: (x.log_softmax(-1).gather(2, labels)[..., 0] * mask).sum(-1) for name, x in logits.items()}
        perturbed = ("logps_beta_minus", "logps_beta_plus")
        sums |= {name: sums[name].detach() for name in perturbed}  # only once they are computed
        sums |= {"tokens": mask.sum(-1), "kl_policy_ref": torch.zeros(len(mask), device=mask.device)}
        half = len(mask) // 2
        chosen, rejected = (Logps(**{name: x[part] for name, x in sums.items()}) for part in _halves(half))
        loss = self.method.loss(chosen, rejected)
        self._step.add(pair_metrics(chosen, rejected, loss))
        assert num_items_in_batch is not None
        return loss.losses.sum() / num_items_in_batch


def _halves(half: int) -> tuple[slice, slice]:
    return slice(0, half), slice(half, None)
