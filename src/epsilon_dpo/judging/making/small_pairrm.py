"""A PairRM small enough to train on a laptop: its tokenizer, learnt from the training texts, and its random weights."""

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import DebertaV2Config, PreTrainedTokenizerFast

from epsilon_dpo.judging.judges.layout import MARKERS
from epsilon_dpo.judging.judges.pairrm import SEGMENTS, PairRM
from epsilon_dpo.judging.making.params import TrainedJudge

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]  # ids 0 to 3, as in deberta-v3
ON_TOP = ["[MASK]", *MARKERS]  # the last ids, whatever the vocabulary's size
# Sizes at first, in those of every other weight.
TOKEN_SIZE, SEGMENT_SIZE, QUERY_SIZE = 0.4, 0.16, 1.3


def small_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A BPE tokenizer with the special tokens and post-processing of PairRM's; its normaliser is NFKC for nmt_nfkc.

    PairRM's own is a Unigram model, whose trainer gives other pieces in every process; BPE's gives the same bytes. And
    it reads capitals as small letters, and punctuation apart from the letters before it: "about iron." and "Iron
    rusts" then share a token, by which a small model can see that one is about the other.

    Args:
        texts: corpus that the pieces are learned from.
        vocab_size: pieces with the special tokens; `ON_TOP` comes on top. Few texts give fewer pieces.
    """
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace("▁", prepend_scheme="always")]
    )
    trainer = BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    tokenizer.add_special_tokens(["[MASK]"])
    tokenizer.add_tokens([AddedToken(marker, normalized=True) for marker in MARKERS])
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    )


def architecture(sizes: TrainedJudge, vocab_size: int) -> dict[str, Any]:
    """PairRM-hf's config.json with the sizes of params.yaml; every other field is PairRM's own but `type_vocab_size`.

    The ids of tokens are left to `small_config`.

    PairRM has no embeddings of source, first and second candidate: one of its 24 layers can find out from the markers
    which token is where. With two layers there is none to spare.

    Args:
        vocab_size: with the tokens that are `ON_TOP`.
    """
    return {
        "architectures": ["DebertaV2PairRM"],
        "vocab_size": vocab_size,
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.num_hidden_layers,
        "num_attention_heads": sizes.num_attention_heads,
        "intermediate_size": sizes.intermediate_size,
        "pooler_hidden_size": sizes.hidden_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": sizes.dropout,
        "attention_probs_dropout_prob": sizes.dropout,
        "layer_norm_eps": 1e-7,
        "initializer_range": sizes.initializer_range,
        "type_vocab_size": SEGMENTS,
        "max_position_embeddings": sizes.source_max_length + 2 * sizes.candidate_max_length,
        "position_buckets": sizes.position_buckets,
        "relative_attention": True,
        "max_relative_positions": -1,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "n_tasks": 1,
        "drop_out": sizes.dropout,
    }


def small_config(sizes: TrainedJudge, tokenizer: PreTrainedTokenizerFast) -> DebertaV2Config:
    """The architecture with the ids of `tokenizer`."""
    source, first, second, candidate = (tokenizer.convert_tokens_to_ids(marker) for marker in MARKERS)
    ids: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "source_prefix_id": source,
        "cand1_prefix_id": first,
        "cand2_prefix_id": second,
        "cand_prefix_id": candidate,
    }
    return DebertaV2Config(**architecture(sizes, len(tokenizer)), **ids)


def look_for_equal_tokens(model: PairRM) -> PairRM:
    """`model`, whose tokens attend to those like them from the start, mostly whichever text they are in.

    Whether an answer has the question's tokens is what a small model must see to tell which answer belongs to it. From
    independent random projections of queries and keys it does not find that within an ordinary training, and with
    segments as large as the tokens it looks at its own text first. The embeddings are small for speed: a layer norm
    follows them, so that their size decides only how far an optimizer step turns them.
    """
    backbone: Any = model.pretrained_model
    with torch.no_grad():
        backbone.embeddings.word_embeddings.weight.mul_(TOKEN_SIZE)
        backbone.embeddings.token_type_embeddings.weight.mul_(SEGMENT_SIZE)
        for layer in backbone.encoder.layer:
            attention = layer.attention.self
            attention.query_proj.weight.mul_(QUERY_SIZE)
            attention.key_proj.weight.copy_(attention.query_proj.weight)
    return model
