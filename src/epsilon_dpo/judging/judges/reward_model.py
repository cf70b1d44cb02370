"""A scalar reward model as a judge: one number per answer, two answers compared by their difference.

Any sequence classifier with one label and a chat template, such as Skywork-Reward-V2 (Liu et al., 2025, arXiv
2507.01352). A single answer has no position, so f_ba = -f_ab and each text is scored once, however many answers it
meets; P(a is better) = sigmoid(r(a) - r(b)), the Bradley-Terry model that such rewards are trained under.
"""

import re
from collections.abc import Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
from jinja2 import TemplateError
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from epsilon_dpo.judging.judges.interface import Messages, Question, Verdict, require_finite
from epsilon_dpo.pipeline.observability.errors import UserError, first_line, lacks_memory
from epsilon_dpo.pipeline.stage.journal import Journal
from epsilon_dpo.pipeline.stage.manifest import refuse_adapter_beside
from epsilon_dpo.pipeline.stage.runtime import on_device

Ids = tuple[int, ...]

BUT_WEIGHTS = (
    "config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip

TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)  # a template is a program
OTHER = "choose a reward model whose template takes it"


class RewardModel:
    """A reward model and its tokenizer, ready to compare.

    Attributes:
        max_length: tokens of prompt and answer together. Of a longer one the beginning is cut: the reward is read at
            the end, where the answer is.
        batch_size: answers at once.
        journal: takes the batches that are scored.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        batch_size: int,
        journal: Journal | None = None,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._pad: int | None = model.config.get_text_config().pad_token_id
        self.max_length = max_length
        self.batch_size = batch_size
        self.journal = journal or Journal()

    @classmethod
    def load(cls, settings: dict[str, Any], folder: Path, journal: Journal | None = None) -> "RewardModel":
        """The reward model in `folder`, as `save_pretrained` writes it, under judge.json's dtype and lengths.

        Raises:
            UserError: the files are no reward model with a chat template.
        """
        tokenizer = _tokenizer(folder)
        model = on_device(_model(folder, settings["dtype"]))
        return cls(model, tokenizer, settings["max_length"], settings["batch_size"], journal)

    def compare(self, questions: list[Question]) -> list[Verdict]:
        """A verdict per question, in the order given; identical answers tie exactly."""
        ids = [(self._whole(prompt, a), self._whole(prompt, b)) for prompt, a, b in questions]
        rewards = self._rewards(both for pair in ids for both in pair)
        return [
            Verdict(
                f_ab=rewards[ids_a] - rewards[ids_b],
                f_ba=rewards[ids_b] - rewards[ids_a],
                len_a=(len_a := self._length(a)),
                len_b=(len_b := self._length(b)),
                trunc_source=max(len(ids_a), len(ids_b)) > self.max_length,
                trunc_a=len_a > self.max_length,
                trunc_b=len_b > self.max_length,
                score_a=rewards[ids_a],
                score_b=rewards[ids_b],
            )
            for (_, a, b), (ids_a, ids_b) in zip(questions, ids, strict=True)
        ]

    def rank(self, prompts: list[Messages], candidates: list[list[str]]) -> list[list[float]]:
        """The rewards themselves."""
        ids = [[self._whole(prompt, text) for text in of] for prompt, of in zip(prompts, candidates, strict=True)]
        rewards = self._rewards(one for of in ids for one in of)
        return [[rewards[one] for one in of] for of in ids]

    def usage(self) -> dict[str, float]:
        return {}

    def ids(self, prompt: Messages, answer: str) -> Ids:
        """The tokens that the reward of `answer` is read from."""
        return self._whole(prompt, answer)[-self.max_length :]

    def _whole(self, prompt: Messages, answer: str) -> Ids:
        """The dialogue in the tokenizer's chat template, which writes every special token itself.

        The model card strips the template's bos and lets the tokenizer add one; here the template's stays and the
        tokenizer adds none: one bos either way. What is a special token's text in a dialogue becomes a space, as for
        PairRM: an answer could else end its turn, and write the next one just where the reward is read.

        Raises:
            UserError: the template refuses the dialogue, or leaves out its system turn.
        """
        dialogue = [turn | {"content": self._special.sub(" ", turn["content"])} for turn in prompt]
        dialogue.append({"role": "assistant", "content": self._special.sub(" ", answer).strip()})
        if any(message["role"] == "system" for message in prompt) and not self._writes_system_turn:
            raise UserError(f"the reward model's chat template leaves out a system turn, which the data have; {OTHER}.")
        try:
            return tuple(self.tokenizer.apply_chat_template(dialogue, return_dict=False))
        except TEMPLATE_ERRORS as error:
            roles, reason = ", ".join(message["role"] for message in dialogue), str(error).rstrip(".")
            raise UserError(
                f"the reward model's chat template refuses a dialogue with the roles {roles} ({reason}); {OTHER}."
            ) from None

    @cached_property
    def _writes_system_turn(self) -> bool:
        """True also where it refuses one, which says so itself when it does."""
        probe = [{"role": "system", "content": "seal 7351"}, {"role": "user", "content": "Who?"}]
        try:
            return "seal 7351" in str(self.tokenizer.apply_chat_template(probe, tokenize=False))
        except TEMPLATE_ERRORS:
            return True

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Matches the text of each special token."""
        flagged = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        texts = {*flagged, *map(str, self.tokenizer.all_special_tokens)} - {""}
        return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")

    def _length(self, answer: str) -> int:
        return len(self.tokenizer(answer.strip(), add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def _rewards(self, ids: Iterable[Ids]) -> dict[Ids, float]:
        """The reward of each distinct text, longest batches last; padding changes one by its rounding only."""
        texts = sorted(set(ids), key=lambda text: (len(text), text))
        found: dict[Ids, float] = {}
        with tqdm(total=len(texts), desc="judge", unit="answer", leave=False) as bar:
            for start in range(0, len(texts), self.batch_size):
                batch = texts[start : start + self.batch_size]
                shown = [text[-self.max_length :] for text in batch]
                rewards = self.journal.of(["reward", shown], partial(self._rewards_of, shown))
                found.update(zip(batch, rewards, strict=True))
                bar.update(len(batch))
        return found

    def _rewards_of(self, batch: list[Ids]) -> list[float]:
        """The model reads a reward at the last token that is not its config's pad.

        Where the config names none it reads at the end, and only one text at once: pad is then a token that ends none.
        """
        place, pad = next(self.model.parameters()).device, self._pad
        if pad is None:
            pad = min(set(range(len(batch) + 1)) - {ids[-1] for ids in batch})
            self.model.config.get_text_config().pad_token_id = pad
        rows = [torch.tensor(ids, device=place) for ids in batch]
        input_ids = pad_sequence(rows, batch_first=True, padding_value=pad)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        logits = self.model(input_ids=input_ids, attention_mask=mask).logits
        return require_finite(logits[:, 0].float().tolist())


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """tokenizer.json as it is: AutoTokenizer would rebuild it by its class, which may give other ids."""
    published = (folder / "tokenizer.json").is_file()
    loader: Any = PreTrainedTokenizerFast if published else AutoTokenizer
    try:
        tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # of damaged files the library raises whatever its next line stumbles over
        if lacks_memory(error):
            raise
        raise UserError(f"The reward model's tokenizer in {folder} cannot be loaded: {first_line(error)}.") from None
    if not tokenizer.chat_template:
        raise UserError(
            f"The tokenizer in {folder} has no chat template, without which nobody knows how a dialogue is put to this "
            "reward model; choose one with a template of its own, such as Skywork/Skywork-Reward-V2-Qwen3-0.6B."
        )
    return tokenizer


def _model(folder: Path, dtype: str) -> PreTrainedModel:
    """All of it from safetensors: transformers would fill a gap with random weights and only log it."""
    refuse_adapter_beside(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if config.num_labels != 1:
            raise UserError(
                f"{folder / 'config.json'} describes {config.num_labels} labels, and a reward model has one; choose a "
                "sequence classifier with num_labels 1."
            )
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            folder,
            trust_remote_code=False,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
    except UserError:
        raise
    except Exception as error:  # as above
        if lacks_memory(error):
            raise
        raise UserError(
            f"The reward model in {folder} cannot be loaded (from safetensors, and without code of its own): "
            f"{first_line(error)}."
        ) from None
    model, found = loaded
    gaps = sorted([*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])])
    if gaps:
        raise UserError(
            f"The weights in {folder} lack {gaps[0]} ({len(gaps)} such), which would be random; a reward model brings "
            "its score head, a language model has none."
        )
    return cast(PreTrainedModel, model)
