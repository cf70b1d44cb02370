"""One trainer for every online method: a transformers.Trainer that draws what it trains on.

A generation (rollouts.py) is drawn before the first of its optimizer steps; the rows of the log, the checkpoints and
the moves of the method's state stand at the ends of generations only. What is drawn follows from the seed, the number
of the generation and the weights, so that a checkpoint holds no random state and no answers.

The loss is the mean over all units (answers or tokens, as the method says) of an optimizer step, however they are cut
into micro-batches and processes. Each process has all weights: it draws answers by itself, so that weights
that are sharded (FSDP) are refused (online_alignment.py).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from epsilon_dpo.methods.online import OnlineMethod, Targets, Update
from epsilon_dpo.models.logps.padding import pad_right
from epsilon_dpo.training.alignment.method_trainer import MethodTrainer
from epsilon_dpo.training.alignment.pair_data import PairData
from epsilon_dpo.training.alignment.pair_metrics import Totals
from epsilon_dpo.training.loop.checkpoints import checkpoint_of
from epsilon_dpo.training.online.answer_logps import AnswerLogps, ValueHead
from epsilon_dpo.training.online.prompts import EVALUATION, Prompt, PromptOrder, seeds_of
from epsilon_dpo.training.online.rollouts import DrawAnswers, Generation, Rollouts, ScoreAnswers

VALUE_HEAD = "value_head.safetensors"
OF_ANSWERS = 1  # the last number of a key of random numbers
OF_EVALUATION = ("reward", "kl/rev", "tokens/answer", "truncated")  # of the answers to the evaluation prompts


class OnlineTrainer(MethodTrainer):
    """Trains `model` on its own answers; other arguments as of MethodTrainer.

    Args:
        reference: the frozen SFT policy, or `model` itself if that has an adapter.
        args: whose steps are optimizer steps, `method.updates` a generation, and whose batch size is 1 (a generation).
        prompts: of the training; eval_prompts: one answer to each is scored in the end.
        draw, score: see rollouts.py.
        micro_batch: answers of a forward pass.
    """

    method: OnlineMethod[Any]

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel,
        method: OnlineMethod[Any],
        draw: DrawAnswers,
        score: ScoreAnswers,
        prompts: PromptOrder,
        eval_prompts: list[Prompt],
        micro_batch: int,
        token_chunk: int,
        args: TrainingArguments,
        eval_dataset: PairData,
        pad_token_id: int,
        callbacks: list[TrainerCallback],
        share_prompt: bool,
    ) -> None:
        updates = range(prompts.steps_of_a_pass * method.updates)  # of a pass, the Trainer's epoch
        super().__init__(
            model, reference, method, token_chunk, args, updates, eval_dataset, pad_token_id, callbacks, share_prompt
        )
        self.prompts, self.eval_prompts = prompts, eval_prompts
        self.values: ValueHead | None = None
        if method.needs_values:
            head = model.get_output_embeddings()
            assert isinstance(head, nn.Linear)
            self.values = ValueHead(head.in_features, head.weight)
        self.logps = AnswerLogps(self.values, token_chunk, pad_token_id, self.accelerator)
        assert self.reference is not None
        self.rollouts = Rollouts(draw, score, self.logps, self.reference, micro_batch)
        self._generation: Generation | None = None
        self._targets: Targets | None = None
        self._updated: list[int] = []  # answers of the optimizer step, as places in the generation
        self._cut: list[list[int]] = []  # this process's micro-batches of them; an empty one adds nothing
        self._drawn, self._drawn_window = Totals(), Totals()

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], int]:
        """The answers of an optimizer step as one batch; with the first of a generation, that generation is drawn."""
        next(epoch_iterator)  # whichever: what is drawn follows from the number of the step
        generation, update = divmod(self.state.global_step, self.method.updates)
        if update == 0 or self._generation is None:
            self._draw(generation)
        assert self._generation is not None
        rows = self._generation.rows
        places = self._share(generation, update, len(rows))
        own = [rows[place] for place in places]
        self._updated = places
        cut = self.rollouts.cut(own, self.accelerator.num_processes, self.accelerator.process_index)
        self._cut = [[places[row] for row in part] for part in cut]
        return [pad_right(own, self.collate.pad_token_id)], len(own)

    def _draw(self, step: int) -> None:
        config, seed = self.method.config, self.args.seed
        asked = self.prompts.of_step(step)
        policy = self.accelerator.unwrap_model(self.model)
        self._generation = self.rollouts(policy, asked, config.k, seeds_of(seed, step, asked, config.k))
        self._targets = self.method.advantages(self._generation.answers)
        self._drawn = Totals()
        self._drawn.add(self._generation.metrics | self._targets.metrics)

    def _share(self, generation: int, update: int, count: int) -> list[int]:
        """The answers of this optimizer step: all, or of each pass another random division into minibatches."""
        number, place = divmod(update, self.method.minibatches)
        if self.method.minibatches == 1:
            return list(range(count))
        # numpy fills a key up with zeros: without its last number this one would be that of the prompts' order.
        order = np.random.default_rng([self.args.seed, generation, number, OF_ANSWERS]).permutation(count)
        found: list[int] = np.sort(np.split(order, self.method.minibatches)[place]).tolist()
        return found

    def _track_num_input_tokens(self, inputs: dict[str, Tensor]) -> None:
        """Every process has all answers of the step."""
        self.state.num_input_tokens_seen += int(inputs["attention_mask"].sum())

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Gradients of an optimizer step, micro-batch by micro-batch."""
        model.train()
        if self.values is not None:
            self.values.zero_grad()
        total = torch.zeros((), dtype=torch.float64, device=self.args.device)
        for number, places in enumerate(self._cut):
            with self.exchange(model, number == len(self._cut) - 1):
                loss = self._loss_of(model, places or self._updated[:1], counts=bool(places))
                self.accelerator.backward(loss)
            total += loss.detach()
        for value in () if self.values is None else self.values.parameters():  # no copy of them exchanges gradients
            value.grad = self.accelerator.reduce(value.grad, "mean")
        return total

    def _loss_of(self, model: nn.Module, places: list[int], counts: bool) -> Tensor:
        """The part of the answers at `places` in the step's mean loss, times the number of processes, whose gradients
        are averaged; their metrics are added to the step's. Without `counts` they add nothing."""
        assert self._generation is not None and self._targets is not None
        answers, targets = self._generation.answers, self._targets
        now = self.logps(model, [self._generation.rows[place] for place in places])
        width = now.mask.shape[1]

        def of(whole: Tensor | None) -> Any:
            """The rows of a micro-batch, as wide as its longest answer."""
            if whole is None:
                return None
            rows = whole[places]
            return (rows if rows.dim() == 1 else rows[:, :width]).to(now.policy.device)

        update = Update(
            policy=now.policy,
            # With one update the weights are those that drew. In bfloat16, and cut otherwise by several processes, the
            # sum over an answer's tokens would differ enough by rounding to be clipped.
            old_policy=now.policy.detach() if self.method.updates == 1 else of(answers.policy),
            mask=now.mask,
            advantages=of(targets.advantages),
            values=now.values,
            old_values=of(answers.values),
            returns=of(targets.returns),
        )
        found = self.method.loss(update)
        metrics = {"loss": found.losses.detach(), **found.metrics}
        self._step.add(metrics if counts else {name: values[:0] for name, values in metrics.items()})
        units = self.method.units(answers.mask[self._updated].sum(1)).sum().item()
        return found.losses.sum() * (self.accelerator.num_processes * counts / units)

    @torch.no_grad()
    def finish_step(self) -> None:
        """After an optimizer step: its means enter the logging window, and with the last one of a generation those of
        its answers do, and move the method's state.

        Raises:
            UserError: the loss is not finite.
        """
        of_all = self._step.take_over_ranks(self.accelerator)
        self._refuse_what_is_not_finite("loss", of_all.means()["loss"])
        self._window.merge(of_all)
        generation, update = divmod(self.state.global_step, self.method.updates)
        if update == 0:
            self._drawn_window.merge(self._drawn)
            self._state_metrics = self.method.after_step(generation, self._drawn.means())

    def window_means(self) -> dict[str, float]:
        means = self._drawn_window.means() | super().window_means()
        self._drawn_window = Totals()
        return means

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """The metrics of all evaluation pairs, and those of one answer of the policy's own to each of their prompts."""
        output = super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        policy, prompts = self.accelerator.unwrap_model(self.model), self.eval_prompts
        own = self.rollouts(policy, prompts, 1, seeds_of(self.args.seed, EVALUATION, prompts, 1))
        means = {f"{metric_key_prefix}_{name}": own.metrics[name].mean().item() for name in OF_EVALUATION}
        return output._replace(metrics=(output.metrics or {}) | means)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The value head is trained beside the policy, under the same learning rate."""
        new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if new and self.values is not None:
            optimizer.add_param_group({"params": list(self.values.parameters()), "weight_decay": 0.0})
        return optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if self.values is None:
            return super()._clip_grad_norm(model)
        both = [*model.parameters(), *self.values.parameters()]
        return self.accelerator.clip_grad_norm_(both, self.args.max_grad_norm)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.values is not None and self.args.should_save:
            save_model(self.values, str(checkpoint_of(self.args, self.state) / VALUE_HEAD))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.values is not None:
            load_model(self.values, Path(resume_from_checkpoint) / VALUE_HEAD)
