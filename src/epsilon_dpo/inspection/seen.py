"""A pair as the model will see it: rendered by the chat template, counted in tokens, what is trained marked."""

from typing import TYPE_CHECKING

from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.data.tokens.tokenisation import tokenise_sides
from epsilon_dpo.pipeline.stage.files import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READ, TRAINED = "│", "▌"  # in front of each line
SHOWN = 700  # characters of a text; of a longer one its beginning and its end


def as_the_model_sees(pair: Row, tokenizer: "PreTrainedTokenizerBase", tokens: Tokens) -> str:
    """Prompt, chosen and rejected answer of a pair with explicit prompt, as lines of text.

    The texts are the token ids decoded again, special tokens written out, so that what tokenisation changes is seen.
    """
    sides = tokenise_sides(tokenizer, pair["prompt"], [pair["chosen"], pair["rejected"]])
    start = sides[0].prompt_length
    room = max(tokens.max_length - start, 0)
    prompt = sides[0].ids[:start]
    lines = [f"row {pair['id']}"]
    too_long = start > tokens.max_prompt_length
    note = f", more than tokens.max_prompt_length = {tokens.max_prompt_length}: would be dropped" if too_long else ""
    lines += _block("prompt", f"{start} tokens{note}", str(tokenizer.decode(prompt)), READ)
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        answer = side.completion_ids
        cut = len(answer) - room
        count = f"{len(answer)} tokens" + (f", the last {cut} cut at tokens.max_length" if cut > 0 and room else "")
        lines += _block(name, count, str(tokenizer.decode(answer[:room] if room else answer)), TRAINED)
    return "\n".join(lines)


def _block(name: str, count: str, text: str, mark: str) -> list[str]:
    return [f"  {name}, {count}", *(f"    {mark} {line}" for line in _shortened(text).split("\n"))]


def _shortened(text: str) -> str:
    if len(text) <= SHOWN:
        return text
    half = SHOWN // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters …\n{text[-half:]}"
