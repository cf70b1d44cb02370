"""How many BOS tokens a dialogue must hold, read off the chat template by probes, and what is wrong with a template.

A template is right that writes one BOS at the start, or one per turn (SmolLM2's BOS opens each turn) or per exchange
(Llama 2's, where it opens each question), or none where the tokenizer puts none before other texts either: the model
then never saw one there (Qwen, ChatML with GPT-2's or Qwen's tokenizer). One that writes none although the tokenizer
does (Zephyr's) is a fault, and so is a second.
"""

from itertools import takewhile
from typing import TYPE_CHECKING

from epsilon_dpo.data.tokens.tokenisation import tokenise_sides
from epsilon_dpo.pipeline.observability.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM, TURN, ANSWER = ({"role": role, "content": "x"} for role in ("system", "user", "assistant"))


class BosRule:
    """How many BOS a rendered dialogue must hold: one, or as many as the template writes where BOS also marks turns.

    Two probes tell a template whose BOS opens turns from one that writes it once. Where BOS is the stop token, too
    (GPT-2, OLMo 2), only those at the start are counted: the contract sees to the others.

    Attributes:
        per_exchange: BOS of each question with its answer.
        at_start: BOS that no question or answer has brought, those of a default system turn among them.
        fault: what is wrong with the template itself; empty if nothing is.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.bos_id, self.fault = tokenizer.bos_token_id, ""
        self.is_stop = self.bos_id == tokenizer.eos_token_id
        self.per_exchange = self.at_start = 0
        if self.bos_id is None:
            return
        ids = [tokenise_sides(tokenizer, prompt, [[ANSWER]])[0].ids for prompt in ([TURN], [TURN, ANSWER, TURN])]
        short, long = map(self._count, ids)
        self.per_exchange = long - short
        self.at_start = short - self.per_exchange
        self.at_start_with_system = self._with_system(tokenizer)
        added = tokenizer("x", verbose=False)["input_ids"][:1] == [self.bos_id]
        right_number = self.per_exchange or self.at_start == 1
        if not right_number and self.at_start:
            self.fault = f"the chat template writes {self.at_start} BOS tokens ({tokenizer.bos_token})"
        elif not right_number and added:
            self.fault = (
                f"the chat template writes no BOS ({tokenizer.bos_token}), which the tokenizer puts before every other "
                "text"
            )
        elif ids[0][:1] != [self.bos_id] and (self.per_exchange or self.at_start):
            self.fault = f"the chat template does not begin with the BOS ({tokenizer.bos_token}) that it writes"

    @property
    def writes_none(self) -> bool:
        """Whether the tokenizer has a BOS that the template rightly never writes."""
        return self.bos_id is not None and not self.fault and not self.per_exchange and not self.at_start

    def errors(self, ids: list[int], turns: int, system: bool = False) -> int:
        """BOS too many or too few in `ids` of a dialogue with `turns` turns, plus one if it does not begin with BOS.

        Args:
            turns: they end with an answer.
            system: whether the first of the turns is the system's.
        """
        if self.bos_id is None:
            return 0
        if self.writes_none:
            return self._count(ids)
        at_start = self.at_start_with_system if system else self.at_start
        exchanges = (turns - system) // 2
        expected = at_start + self.per_exchange * exchanges if self.per_exchange else 1
        return abs(self._count(ids) - expected) + (ids[0] != self.bos_id)

    def _count(self, ids: list[int]) -> int:
        if self.is_stop:
            return len(list(takewhile(lambda token: token == self.bos_id, ids)))
        return ids.count(self.bos_id)

    def _with_system(self, tokenizer: "PreTrainedTokenizerBase") -> int:
        try:
            return self._count(tokenise_sides(tokenizer, [SYSTEM, TURN], [[ANSWER]])[0].ids) - self.per_exchange
        except UserError:  # no such role: the contract lets no system turn through
            return self.at_start
