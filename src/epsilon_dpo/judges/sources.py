"""Judges by name: `judge.source` in params.yaml decides where out/judge comes from."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from epsilon_dpo.data.hub import hub_folder
from epsilon_dpo.errors import UserError
from epsilon_dpo.fingerprint import digest
from epsilon_dpo.judges.interface import Judge, Question
from epsilon_dpo.judges.loading import load_judge
from epsilon_dpo.judges.pairrm_folder import load_tokenizer, weights_file
from epsilon_dpo.judges.pairrm_training import Track, train
from epsilon_dpo.judges.source_text import pair_text
from epsilon_dpo.outputs import write_json
from epsilon_dpo.params.judge import PretrainedJudge, TrainedJudge

# Never the *.bin files beside them: they are pickles.
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def build(
    params: TrainedJudge | PretrainedJudge,
    pairs: list[Question],
    seed: int,
    out: Path,
    scratch: Path,
    track: Track,
) -> Judge:
    """The judge that `params` describes, written to `out` with judge.json, from which alone it can be loaded again.

    Args:
        pairs: the training pairs, `a` the chosen answer; not looked at if there is nothing to train.
        seed, scratch, track: of the training, see `train`.

    Raises:
        UserError: the weights' source is unreachable, missing, pickled or not a PairRM.
    """
    facts = {
        "kind": "pairrm",
        "source": params.source,
        "source_max_length": params.source_max_length,
        "candidate_max_length": params.candidate_max_length,
        "batch_size": params.batch_size,
        "budget": params.budget if isinstance(params, PretrainedJudge) else "example",
    }
    if isinstance(params, TrainedJudge):
        facts |= _train_into(out, params, pairs, seed, scratch, track)
    else:
        facts |= _copy_into(out, params)
    write_json(out / "judge.json", facts | {"model_sha256": digest(out / "model.safetensors")})
    return load_judge(out)


def _train_into(
    out: Path,
    params: TrainedJudge,
    pairs: list[Question],
    seed: int,
    scratch: Path,
    track: Track,
) -> dict[str, Any]:
    texts = [pair_text(*pair) for pair in pairs]
    model, layout = train(texts, params, seed, scratch, out / "metrics.jsonl", track)
    model.pretrained_model.config.save_pretrained(out)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, out / "model.safetensors")
    (out / "model.safetensors").chmod(0o644)  # safetensors makes it private to the user
    layout.tokenizer.save_pretrained(out)
    return {"origin": f"trained on {len(pairs)} pairs"}


def _copy_into(out: Path, params: PretrainedJudge) -> dict[str, Any]:
    """Copies, so that scoring needs out/judge and nothing else; a local folder is named without its path."""
    if params.revision is not None:
        folder = hub_folder(params.path, params.revision, list(FILES))
        origin = f"{params.path} at {params.revision}"
    else:
        folder, origin = Path(params.path), f"local folder {Path(params.path).name}"
        if not folder.is_dir():
            raise UserError(
                f"judge.path = {params.path} is no folder; copy a PairRM there, or set judge.revision to a commit of a "
                "Hub repository such as llm-blender/PairRM-hf."
            )
    weights_file(folder)  # before anything is copied, so that the sentence names the source and not its copy
    for name in FILES:
        if (folder / name).is_file():
            (out / name).write_bytes((folder / name).read_bytes())
    load_tokenizer(folder)
    return {"origin": origin}
