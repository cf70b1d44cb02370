"""Pairs of every shape of preference data: read, held against the contract, rendered, and trained on for one step."""

from pathlib import Path

import pytest
from contract_of_lists import validate
from own_data import read, write
from runs import DPO
from shape_rows import EXAMPLES, pair, user

from epsilon_dpo.data.contract.params import RowExpectations, Validate
from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.data.tokens.tokenisation import tokenise_pair
from epsilon_dpo.models.base.embedded import build_model, texts_of, train_tokenizer
from epsilon_dpo.models.base.params import EmbeddedModel
from epsilon_dpo.pipeline.stage.files import read_jsonl

SIZES = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.06, "max_position_embeddings": 256}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)


def test_pairs_of_every_shape_are_trained_on(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = []
    for name, example in EXAMPLES.items():
        file = write(f"data/{name}.jsonl", example.rows)
        dataset = read(path=str(file), train_split="train", eval_split="train[:100%]", eval_share=None)
        rows += [{**row, "id": f"{name}/{row['id']}"} for row in dataset.train]
    assert {row["id"].split("/")[0] for row in rows} == set(EXAMPLES)
    held_out = [{"id": "eval", **pair(user("Held out?"), good="Yes.", bad="No.")}]

    params = EmbeddedModel(source="embedded", **SIZES, **HEADS)  # type: ignore[arg-type]
    tokenizer = train_tokenizer([*texts_of(rows)] * 20, params)
    tokenizer.chat_template = TEMPLATE
    tokens = Tokens(max_prompt_length=160, max_length=200)
    limits = {"max_dropped_share": 0.0, "max_truncated_share": 0.0, "min_train_pairs": 30, "min_eval_pairs": 1}
    on_failure = RowExpectations(**dict.fromkeys(RowExpectations.model_fields, "stop"))
    outcome = validate({"train": rows, "eval": held_out}, tokenizer, tokens, Validate(on_failure=on_failure, **limits))
    kept = outcome.pairs["train"]
    assert len(kept) == len(rows) == sum(len(example.pairs) for example in EXAMPLES.values())

    pairs = [{"id": row["id"], **tokenise_pair(tokenizer, row, tokens)} for row in kept]
    folder = tmp_path / "sft"
    build_model(params, tokenizer, 1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    out = run(
        "shapes",
        DPO,
        pairs=pairs,
        model=folder,
        max_steps=1,
        warmup_ratio=0.0,
        batch_size=len(pairs),
        micro_batch_size=len(pairs) // 2,
    )
    (step,) = read_jsonl(out / "metrics.jsonl")
    assert step["loss"] == pytest.approx(0.6931, abs=1e-3) and step["grad_norm"] > 0.0
