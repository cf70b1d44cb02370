"""A run's own seed takes the pipeline's place in its training, wherever that draws."""

import pytest
from runs import BETA_DPO, KTO, config, content

from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.stage.files import write_jsonl
from epsilon_dpo.training.alignment.alignment import align
from epsilon_dpo.training.alignment.pair_logps import PairLogps


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


def test_no_two_draws_are_of_the_same_random_numbers(run, monkeypatch):
    """Or CRINGE's alternatives would be drawn alike in each step, and in each of the replicates of a run."""
    seeds, score = [], PairLogps.score

    def noted(self, model, batch, means, generator):
        seeds.append(generator.initial_seed())
        return score(self, model, batch, means, generator)

    monkeypatch.setattr(PairLogps, "score", noted)
    for seed in (5, 6):
        cringe = {"method": "binary_cringe", "alpha": 0.5, "k": 3, "seed": seed}
        run(f"with seed {seed}", cringe, max_steps=2)
    assert len(seeds) == 2 * (2 * 2 + 3), "two micro-batches a step, and three of the evaluation"
    assert len(set(seeds)) == len(seeds)
