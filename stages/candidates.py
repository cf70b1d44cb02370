"""candidates: the reference's own answers to the training prompts; none if pairs come from the dataset."""

from pathlib import Path

from epsilon_dpo.data.prompts.prompt_ids import prompt_id
from epsilon_dpo.pipeline.stage.execution import run_stage
from epsilon_dpo.pipeline.stage.files import read_jsonl, write_jsonl
from epsilon_dpo.pipeline.stage.params import load
from epsilon_dpo.sampling.on_policy.on_policy import one_row_per_prompt
from epsilon_dpo.sampling.on_policy.params_candidates import CandidatesView

with run_stage("candidates") as stage:
    params = load(CandidatesView)
    samples = []
    if params.candidates is not None:
        from epsilon_dpo.sampling.answers.sampling import answer  # torch is not loaded for nothing

        rows = read_jsonl(Path("out/validate/train.jsonl"))
        rows = one_row_per_prompt(rows, [prompt_id(row["prompt"]) for row in rows], params.candidates.max_prompts)
        reference = Path("out/sft/model")
        samples = answer(
            reference, rows, params.candidates, params.seed, params.threads, stream="candidates", scratch=stage.scratch
        )
    write_jsonl(stage.out / "samples.jsonl", samples)
    stage.summary = f"{len(samples)} answers of the reference to training prompts"
