"""What ends an answer: the tokenizer's eos token, further tokens, and strings; and the answer's text without them."""

from transformers import PreTrainedTokenizerFast

from epsilon_dpo.data.tokens.tokenizer import answer_head, special_tokens_by_id
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.sampling.decoding.params import Stop

UNREADABLE = "\ufffd"  # what decoders write for bytes that are no text


class Stops:
    """Whether a completion has ended, and its text.

    Attributes:
        tokens: ids, the eos token's first.

    Raises:
        UserError: a stop token is not one token of the vocabulary, or a stop string is one that text never shows, or
            one that the chat template writes before every answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: Stop) -> None:
        self.tokenizer = tokenizer
        self.strings = stop.strings
        vocabulary = tokenizer.get_vocab() if stop.tokens else {}
        for token in stop.tokens:
            if token not in vocabulary:
                raise UserError(
                    f"stop.tokens names {token!r}, which is not one token of the model's vocabulary; write it as the "
                    "tokenizer does, or put it under stop.strings."
                )
        special = special_tokens_by_id(tokenizer)
        self._special = set(special)  # what decoding leaves out
        head = self._decoded(tokenizer(answer_head(tokenizer), add_special_tokens=False)["input_ids"])
        for string in stop.strings:
            if string in head:
                raise UserError(
                    f"stop.strings names {string!r}, which stands in what the chat template writes before every answer "
                    f"({head!r}), so that each would end there; name another."
                )
            if hidden := next((token for token in special.values() if token in string), None):
                raise UserError(
                    f"stop.strings names {string!r}, but no text shows the token {hidden!r}; put it under stop.tokens."
                )
        self.tokens: list[int] = [tokenizer.eos_token_id, *(vocabulary[token] for token in stop.tokens)]
        self._head = head.strip()
        # No token of a text has less than a byte, so that these many show a string that the last one completes.
        self._window = max((len(string.encode()) for string in stop.strings), default=0) + 4

    def __call__(self, ids: list[int]) -> bool:
        """Whether the completion `ids`, which had not ended before its last token, ends with it."""
        return ids[-1] in self.tokens or (bool(self.strings) and self._shows_a_string(ids))

    def _shows_a_string(self, ids: list[int]) -> bool:
        last: list[int] = []
        for id_ in reversed(ids):
            if id_ not in self._special:
                last.append(id_)
                if len(last) == self._window:
                    break
        shown = last[::-1]
        texts = [self._decoded(shown)]
        if len(last) == self._window and UNREADABLE in texts[0]:
            # The window may begin within a character, and a run of byte tokens that does decodes to no text at all.
            texts += [self._decoded(shown[cut:]) for cut in (1, 2, 3)]
        return any(string in text for text in texts for string in self.strings)

    def text(self, ids: list[int]) -> str:
        """Without special tokens, without the stop and what follows it, stripped; and without the template's head.

        The data's answers, which it is compared with, have none, and the template writes it again.
        """
        text = self._decoded(ids[:-1] if ids[-1] in self.tokens[1:] else ids)
        found = [place for place in map(text.find, self.strings) if place >= 0]
        return text[: min(found, default=None)].strip().removeprefix(self._head).lstrip()

    def _decoded(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))
