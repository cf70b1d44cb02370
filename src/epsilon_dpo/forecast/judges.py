"""The judge, and the teacher: what its training needs, and what asking it needs in stage score, the teacher in stage
ranking, and wherever else it is asked."""

from dataclasses import replace

import torch
from transformers import AutoModel, DebertaV2Config, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from epsilon_dpo.forecast.architecture import config_at, config_of
from epsilon_dpo.forecast.live import ACTIVATIONS, without_memory
from epsilon_dpo.forecast.machine import accumulates
from epsilon_dpo.forecast.memory import unsharded
from epsilon_dpo.forecast.needs import Disk, Needs
from epsilon_dpo.forecast.simulation import How, Rows, Simulated, body_pass, body_step
from epsilon_dpo.forecast.trainings import AT_ONCE, Given
from epsilon_dpo.judging.judges import pairrm_forward
from epsilon_dpo.judging.judges.pairrm_judge import CPU_TOKENS
from epsilon_dpo.judging.making.params import (
    AnyJudge,
    PretrainedJudge,
    RewardModelJudge,
    TrainedJudge,
    TrainedRewardJudge,
)
from epsilon_dpo.judging.making.small_pairrm import ON_TOP, architecture
from epsilon_dpo.models.base.params import PretrainedModel
from epsilon_dpo.pipeline.observability.errors import UserError

MADE = {"judge": "judge", "teacher": "judge, the teacher"}  # lines of the table, by block
ASKED = {"judge": "score", "teacher": "ranking, margins or online runs"}


def of_judge(of: Given, block: str = "judge") -> list[Needs]:
    """A line for its training or its copy, and one for asking it; FLOPs of neither are forecast."""
    judge, asked = of.params.judges[block], ASKED[block]
    if judge.source in ("sentiment", "llm"):
        return [Needs(asked, [], None, 0, None, None, note=f"{block}.source: {judge.source} needs no GPU")]
    try:
        config, dtype = _config(judge, block)
    except UserError as error:
        return [Needs(asked, [], None, 0, None, None, note=str(error))]
    gpus = min(of.machine.gpus, 1)
    trained = isinstance(judge, TrainedJudge | TrainedRewardJudge)
    at_once = judge.micro_batch_size if trained else judge.batch_size  # type: ignore[union-attr]  # others left above
    rows = Rows(at_once, _columns(judge), 1)
    pairrm = isinstance(judge, TrainedJudge | PretrainedJudge)
    if pairrm:
        rows = _of_pairs(rows, of.machine.device)
    with without_memory() as live:
        model = _model(config, dtype).eval()
        live.label = ACTIVATIONS
        memory = unsharded(body_pass(model, live, rows))
    if pairrm and pairrm_forward.has_its_attention(config):
        memory = replace(memory, activations=_of_its_attention(config, rows))
    if isinstance(judge, TrainedJudge | TrainedRewardJudge):
        made = replace(_training(of, judge, config, dtype), stage=MADE[block])
    else:  # it is copied
        made = Needs(MADE[block], [], None, 0, None, None, Disk(out=sum(one.nbytes for one in model.parameters())))
    if of.params.teacher is None:  # out/teacher is a copy
        made = replace(made, disk=replace(made.disk, out=2 * made.disk.out))
    runs = list(of.params.runs) if block == "judge" else []
    return [made, Needs(asked, runs, memory, gpus, None, None)]


def _training(
    of: Given, judge: TrainedJudge | TrainedRewardJudge, config: PreTrainedConfig, dtype: torch.dtype
) -> Needs:
    reward = judge if isinstance(judge, TrainedRewardJudge) else None
    rows = Rows(judge.micro_batch_size * (2 if reward else 1), _columns(judge), 1)
    how = How(
        dtype,
        autocast=reward is not None and reward.bf16,
        gradient_checkpointing=reward is not None and reward.gradient_checkpointing,
        lora=None,
        accumulates=accumulates(judge, processes=1),
        device=of.machine.device,
    )
    step = _step(config, how, rows)
    disk = Disk(out=step.trained_bytes, scratch=AT_ONCE * 3 * step.trained_bytes)
    return Needs("judge", [], unsharded(step), min(of.machine.gpus, 1), None, None, disk)


def _of_pairs(rows: Rows, device: str) -> Rows:
    """A PairRM's batch counts pairs, both orders of which are judged at once; on a CPU fewer where they are long."""
    pairs = min(rows.rows, max(CPU_TOKENS // (2 * rows.columns), 1)) if device == "cpu" else rows.rows
    return rows._replace(rows=2 * pairs)


def _of_its_attention(config: PreTrainedConfig, rows: Rows) -> float:
    """Bytes in pairrm_forward: of a layer the terms of the positions, [heads, rows, L, L], beside one that is being
    added, [heads, rows, L, 2 L - 1], with the layer's states, queries, keys and values, [rows, L, hidden] each."""
    tokens = rows.rows * rows.columns
    return 4.0 * tokens * (config.num_attention_heads * (3 * rows.columns - 1) + 4 * config.hidden_size)


def _config(judge: AnyJudge, block: str = "judge") -> tuple[PreTrainedConfig, torch.dtype]:
    """Of the judge's model, and the type of its weights; a PairRM's are float32."""
    if isinstance(judge, TrainedJudge):
        return DebertaV2Config(**architecture(judge, judge.vocab_size + len(ON_TOP))), torch.float32
    if isinstance(judge, TrainedRewardJudge):
        dtype = getattr(torch, judge.model.dtype) if isinstance(judge.model, PretrainedModel) else torch.float32
        return config_of(judge.model, where=f"{block}.model"), dtype
    assert isinstance(judge, PretrainedJudge | RewardModelJudge)
    dtype = getattr(torch, judge.dtype) if isinstance(judge, RewardModelJudge) else torch.float32
    return config_at(judge.path, judge.revision, block), dtype


def _columns(judge: AnyJudge) -> int:
    """Tokens of the longest text that it is shown."""
    if isinstance(judge, TrainedJudge | PretrainedJudge):
        return judge.source_max_length + 2 * judge.candidate_max_length
    assert isinstance(judge, TrainedRewardJudge | RewardModelJudge)
    return judge.max_length


def _model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    with no_init_weights():
        model: PreTrainedModel = AutoModel.from_config(config, dtype=dtype, trust_remote_code=False)
    return model


def _step(config: PreTrainedConfig, how: How, rows: Rows) -> Simulated:
    with without_memory() as live:
        model = _model(config, how.dtype).train()
        if how.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        return body_step(model, how, live, rows)
