"""Where an answer ends, and its text without what ended it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import ByteLevelBPETokenizer, Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from epsilon_dpo.analysis.kl.params import KL
from epsilon_dpo.analysis.kl.records import kl_records
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.sampling.answers.params import Sample
from epsilon_dpo.sampling.answers.sampling import answer
from epsilon_dpo.sampling.decoding.params import Stop
from epsilon_dpo.sampling.decoding.stops import Stops

PARAMS = read_yaml(Path(__file__).resolve().parents[3] / "params.yaml")["sample"] | {"max_new_tokens": 20}
CHAT = "{{% for m in messages %}}{{{{ '{head}' if m.role == 'assistant' }}}}{{{{ m.content }}}}<end>{{% endfor %}}"


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Of bytes, so that a string is many tokens and its end may share one with what follows."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["any any any"], vocab_size=260, min_frequency=1, special_tokens=["<end>", "<other>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer,
        eos_token="<end>",
        additional_special_tokens=["<other>"],
        chat_template=CHAT.format(head=""),
    )


def stopped(
    tokenizer: PreTrainedTokenizerFast, text: str, *strings: str, tokens: tuple[str, ...] = ()
) -> tuple[str, str]:
    """The answer's text, and what was still to come when it ended."""
    stops = Stops(tokenizer, Stop(tokens=list(tokens), strings=list(strings)))
    ids = tokenizer(text)["input_ids"]
    end = next((n for n in range(1, len(ids) + 1) if stops(ids[:n])), len(ids))
    return stops.text(ids[:end]), tokenizer.decode(ids[end:])


def test_a_string_ends_an_answer_as_soon_as_it_is_complete(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "It is blue. " * 40 + "\nHuman: why?"
    assert stopped(tokenizer, text, "\nHuman:", "###") == (("It is blue. " * 40).strip(), " why?")
    assert stopped(tokenizer, "aé### b", "é#") == ("a", "## b")
    assert stopped(tokenizer, "no stop here", "\nHuman:") == ("no stop here", "")
    assert stopped(tokenizer, "one ## two # three", "#", "##")[0] == "one"


def test_a_token_that_goes_on_after_the_string_still_ends_it(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("many") == ["m", "any"]
    assert stopped(tokenizer, "a many b", "man") == ("a", " b")
    assert stopped(tokenizer, "a many b", "any", "man") == ("a", " b")  # one token completes both: the first place
    assert stopped(tokenizer, "a m<other>any b", "many") == ("a", " b")  # a special token is no text


def test_a_string_behind_characters_in_bytes_is_seen_at_once() -> None:
    """Llama 2's and Gemma's tokenizers decode a run of byte tokens that begins within a character to no text at all."""
    vocabulary = {"<end>": 0, "a": 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
    bytes_ = Tokenizer(BPE(vocabulary, [], byte_fallback=True))
    bytes_.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    chat = CHAT.format(head="")
    found = PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token="<end>", chat_template=chat)
    for character in ("é", "語", "👩"):
        assert stopped(found, f"a{character * 2}\n\na", "\n\n") == (f"a{character * 2}", "a")


def test_each_of_several_tokens_ends_it(tokenizer: PreTrainedTokenizerFast) -> None:
    assert stopped(tokenizer, "a<other>b<end>c", tokens=()) == ("ab", "c")
    assert stopped(tokenizer, "a<other>b<end>c", tokens=("<other>",)) == ("a", "b<end>c")
    assert stopped(tokenizer, "a: b<end>c", tokens=(":",)) == ("a", " b<end>c")  # not special


def test_a_wrong_name_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"stop\.tokens names '<\|eot_id\|>', which is not one token"):
        Stops(tokenizer, Stop(tokens=["<|eot_id|>"], strings=[]))
    with pytest.raises(UserError, match=r"put it under stop\.tokens"):
        Stops(tokenizer, Stop(tokens=[], strings=["<end>"]))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start_header_id|>"]})
    for string in ("<|start_header_id|>", "a<|start_header_id|>user"):
        with pytest.raises(UserError, match=r"no text shows the token '<\|start_header_id\|>'"):
            Stops(tokenizer, Stop(tokens=[], strings=[string]))


def test_what_the_template_writes_before_every_answer_is_no_part_of_its_text(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """The answers of the data, which it is compared with, do not have it; Qwen 3 writes an empty <think>."""
    tokenizer.chat_template = CHAT.format(head="<other><think>\\n\\n</think>\\n\\n")
    head = "<other><think>\n\n</think>\n\n"
    assert stopped(tokenizer, f"{head}It is blue.<end>") == ("It is blue.", "")
    assert stopped(tokenizer, f"{head}<end>") == ("", "")
    assert stopped(tokenizer, f"{head}It is END blue.", "END ") == ("It is", "blue.")
    thought = "<think>\nWhich sky?\n</think>\n\nIt is blue."
    assert stopped(tokenizer, f"<other>{thought}<end>") == (thought, "")
    with pytest.raises(UserError, match=r"stop\.strings names '\\n', which stands in what the chat template writes"):
        stopped(tokenizer, "a", "\n")


def test_sampling_stops_there_and_the_kl_ends_there(sft_folder: Callable[..., Path]) -> None:
    """Both backends' text and reason come from here; a stopped answer is whole, which the KL's `truncated` says."""
    folder = sft_folder()
    rows: list[dict[str, Any]] = [
        {"id": f"r/{n}", "prompt": [{"role": "user", "content": f"w{n} w3"}], "chosen": [{"content": "w1"}]}
        for n in range(40)
    ]
    plain = answer(folder, rows, Sample(**PARAMS), 5, 1, "policy")
    first = {row["response_ids"][0] for row in plain}
    token = f"w{max(first) - 3}"
    stop = {"tokens": [token], "strings": ["w9"]}
    found = answer(folder, rows, Sample(**PARAMS | {"stop": stop}), 5, 1, "policy")
    ended = 0
    for one, before in zip(found, plain, strict=True):
        ids = one["response_ids"]
        assert ids == before["response_ids"][: len(ids)], "up to the stop nothing changes"
        assert token not in one["response"].split() and "w9" not in one["response"]
        assert (one["finish_reason"] == "length") == (len(ids) == 20 and before["finish_reason"] == "length")
        ended += len(ids) < len(before["response_ids"])
    assert ended > 3
    pairs = [{"id": str(n), "prompt_ids": [1], "chosen_ids": [4, 2]} for n in range(2)]
    records = kl_records(folder, folder, found, found, pairs, KL(batch_size=8, token_chunk=64))
    by_id = {record["id"]: record["truncated"] for record in records if record["answers"] == "policy"}
    assert by_id == {one["id"]: one["finish_reason"] == "length" for one in found}
