"""A run's own seed takes the pipeline's place in its training, wherever that draws."""

import pytest
from runs import BETA_DPO, KTO, config, content

from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.stage.files import write_jsonl
from epsilon_dpo.training.alignment.alignment import align


@pytest.mark.parametrize("entry", [KTO, BETA_DPO], ids=["mismatched answers", "a draw a step"])
def test_the_runs_seed_is_as_the_pipelines_would_be(entry, sft_folder, token_pairs, tmp_path):
    model, pairs = sft_folder(), tmp_path / "pairs"
    pairs.mkdir()
    write_jsonl(pairs / "train.jsonl", token_pairs(22))
    write_jsonl(pairs / "eval.jsonl", token_pairs(27)[22:])

    def trained(name, entry, seed):
        out = tmp_path / name
        out.mkdir()
        scratch = tmp_path / f"{name}-scratch"
        align(method_of("x", entry), config(max_steps=3), seed, model, pairs, out, scratch, track, save_steps=4)
        return content(out)

    track = lambda metrics, step: None  # noqa: E731
    own, pipelines = trained("own", entry | {"seed": 6}, 5), trained("pipelines", entry, 6)
    assert own == pipelines != trained("another", entry, 5)
