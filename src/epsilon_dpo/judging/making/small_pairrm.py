"""A PairRM small enough to train on a laptop: its tokenizer, learnt from the training texts, and its random weights."""

from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import DebertaV2Config, PreTrainedTokenizerFast

from epsilon_dpo.judging.judges.layout import MARKERS
from epsilon_dpo.judging.making.params import TrainedJudge

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]  # ids 0 to 3, as in deberta-v3


def small_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A BPE tokenizer with the special tokens and post-processing of PairRM's; its normaliser is NFKC for nmt_nfkc.

    PairRM's own is a Unigram model, whose trainer gives other pieces in every process; BPE's gives the same bytes.

    Args:
        texts: corpus that the pieces are learned from.
        vocab_size: pieces with the special tokens; [MASK] and the four markers come on top. Few texts give fewer
            pieces.
    """
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
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


def small_config(sizes: TrainedJudge, tokenizer: PreTrainedTokenizerFast) -> DebertaV2Config:
    """PairRM-hf's config.json with the sizes of params.yaml; every other field is PairRM's own."""
    source, first, second, candidate = (tokenizer.convert_tokens_to_ids(marker) for marker in MARKERS)
    fields: dict[str, Any] = {
        "architectures": ["DebertaV2PairRM"],
        "vocab_size": len(tokenizer),
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
        "type_vocab_size": 0,
        "max_position_embeddings": sizes.source_max_length + 2 * sizes.candidate_max_length,
        "position_buckets": sizes.position_buckets,
        "relative_attention": True,
        "max_relative_positions": -1,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "pad_token_id": tokenizer.pad_token_id,
        "n_tasks": 1,
        "drop_out": sizes.dropout,
        "source_prefix_id": source,
        "cand1_prefix_id": first,
        "cand2_prefix_id": second,
        "cand_prefix_id": candidate,
    }
    return DebertaV2Config(**fields)
