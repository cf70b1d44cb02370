"""How stage align trains an online run: the one way to the sampler, the scorer and the trainer of online methods.

Stage align imports this file by its name, so that what only this file needs is no dependency of runs that learn from
given pairs (code.py).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.judging.scorer.code import require_same
from epsilon_dpo.judging.scorer.loading import load_scorer
from epsilon_dpo.judging.scorer.writing import prompt_file
from epsilon_dpo.methods.online import OnlineMethod
from epsilon_dpo.sampling.decoding.draws import Draw
from epsilon_dpo.training.online.online_alignment import align_online


def online_training(method: OnlineMethod[Any], scorer: Path, model: Path) -> Callable[..., dict[str, float]]:
    """`align_online` with what draws answers and what scores them.

    Args:
        scorer: the method's folder of out/scorer.
        model: out/sft/model, whose tokenizer it takes.

    Raises:
        UserError: as load_scorer, require_same.
    """
    config, score = method.config, load_scorer(scorer)
    require_same(scorer)
    return partial(
        align_online,
        prompts={split: scorer / prompt_file(split) for split in ("train", "eval")},
        draw=Draw(load_tokenizer(model), config.max_new_tokens, config.prompts_per_step * config.k),
        score=score,
    )
