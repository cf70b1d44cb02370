"""The embedded default: a small Gemma-2 with random weights, and a byte-fallback BPE tokenizer trained on the data.

It has what makes Gemma-2 special to the rest of the pipeline (soft-capped logits, <end_of_turn> as the stop token, no
system role, a <bos> that the template writes), so a run on it exercises the code that a run on google/gemma-2-2b uses.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from epsilon_dpo.models.base.gemma_template import END_OF_TURN, START_OF_TURN, TEMPLATE
from epsilon_dpo.models.base.params import EmbeddedModel

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", START_OF_TURN, END_OF_TURN]  # ids 0 to 5
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]  # ids 6 to 261: what no other token covers is spelt in bytes
SPACE = "▁"


def train_tokenizer(texts: Iterable[str], params: EmbeddedModel) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocab_size` tokens: any text can be encoded, and decodes to itself
    (▁ to a space).

    As in Gemma, a space is written "▁". Unlike there, tokens never cross a word or a line: with texts as alike as the
    embedded ones entire sentences would become one token, and a merge across the template's line break would change the
    prompt's ids.
    """
    core = _word_parts(texts, params.vocab_size)
    core.add_special_tokens(SPECIAL)
    bos = SPECIAL.index("<bos>")
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token=END_OF_TURN,
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens=["<eos>", START_OF_TURN],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=params.max_position_embeddings,
    )


def build_model(params: EmbeddedModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> Gemma2ForCausalLM:
    """Gemma-2 with random weights drawn from `seed`, in float32; as many embeddings as the tokenizer has tokens."""
    torch.manual_seed(seed)
    return Gemma2ForCausalLM(gemma2_config(params, len(tokenizer)))


def gemma2_config(params: EmbeddedModel, vocab_size: int) -> Gemma2Config:
    """`vocab_size`: of the tokenizer, which may have fewer tokens than it was allowed."""
    return Gemma2Config(
        vocab_size=vocab_size,
        hidden_size=params.hidden_size,
        intermediate_size=params.intermediate_size,
        num_hidden_layers=params.num_hidden_layers,
        num_attention_heads=params.num_attention_heads,
        num_key_value_heads=params.num_key_value_heads,
        head_dim=params.head_dim,
        query_pre_attn_scalar=params.head_dim,
        max_position_embeddings=params.max_position_embeddings,
        sliding_window=params.max_position_embeddings // 2,  # Gemma-2's proportion
        initializer_range=params.initializer_range,
        final_logit_softcapping=30.0,
        attn_logit_softcapping=50.0,
    )


def texts_of(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Every turn of every dialogue, and the role names as the template writes them."""
    for row in rows:
        for message in row["chosen"] + row["rejected"]:
            yield "model\n" if message["role"] == "assistant" else "user\n"
            yield message["content"]


def _word_parts(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """BPE over words. The byte tokens are special to the trainer only, or decoding would leave them out."""
    core = _pipeline(models.BPE())
    room = vocab_size - len(SPECIAL) - len(BYTES)
    texts = [text.replace(" ", SPACE) for text in texts]
    alphabet = _frequent_characters(texts, max(1, room // 2))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL + BYTES,
        initial_alphabet=sorted(alphabet),
        min_frequency=2,
        show_progress=False,
    )
    core.train_from_iterator(_stretches_of(alphabet, texts), trainer)
    learnt = json.loads(core.to_str())["model"]
    merges = [(left, right) for left, right in learnt["merges"]]
    return _pipeline(models.BPE(vocab=learnt["vocab"], merges=merges, unk_token="<unk>", byte_fallback=True))


def _frequent_characters(texts: list[str], limit: int) -> set[str]:
    """The `limit` most frequent characters, the lower code point first where counts tie; the rest is spelt in bytes.

    The trainer's own `limit_alphabet` breaks ties in the order of a hash map, which differs from process to process.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    return set(sorted(counts, key=lambda character: (-counts[character], character))[:limit])


def _stretches_of(alphabet: set[str], texts: list[str]) -> Iterator[str]:
    """`texts` cut at every character outside `alphabet`: what is on its two sides can never become one token."""
    for text in texts:
        for kept, stretch in groupby(text, alphabet.__contains__):
            if kept:
                yield "".join(stretch)


def _pipeline(model: models.BPE) -> Tokenizer:
    core = Tokenizer(model)
    core.normalizer = normalizers.Replace(" ", SPACE)
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(SPACE, "merged_with_next"),
            pre_tokenizers.Split(Regex(rf"[^\w{SPACE}]"), "isolated"),
        ]
    )
    core.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return core
