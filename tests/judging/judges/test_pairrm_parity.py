"""PairRM's scores against two oracles: a plain second implementation and llm-blender's own scores."""

import json
import random
from pathlib import Path

import llm_blender_oracle as blender
import pytest
import tiny_pairrm
import torch
from pairrm_reference import Reference
from scipy.stats import rankdata
from transformers import AutoTokenizer

from epsilon_dpo.judging.judges import pairrm_judge
from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.judging.judges.layout import Layout, Pair
from epsilon_dpo.judging.judges.pairrm_folder import load_model, load_tokenizer
from epsilon_dpo.judging.judges.pairrm_judge import PairRMJudge

pytestmark = pytest.mark.numeric

FRAGMENTS = [
    *tiny_pairrm.WORDS, *tiny_pairrm.MARKERS, "[SEP]", "[CLS]", "[MASK]", "[PAD]", "[UNK]", "…", "½", "ﬁ", "\u00a0",
    "\u200b", "  ", "\n", "\n\n", "\t", "é", "🌕", "don't", "</s>", "<|", "|>", "source", "", blender.LONG,
]  # fmt: skip
LLM_BLENDER = json.loads(blender.ORACLE.read_text("utf-8"))


def random_text(rng: random.Random) -> str:
    return rng.choice(["", " "]).join(rng.choices(FRAGMENTS, k=rng.randint(0, 9)))


RNG = random.Random(0)
TRIPLES = [*blender.TRIPLES, *((random_text(RNG), random_text(RNG), random_text(RNG)) for _ in range(60))]
SOURCES, FIRST, SECOND = (list(column) for column in zip(*TRIPLES, strict=True))
PAIRS = [Pair(*triple) for triple in TRIPLES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pairrm.write(tmp_path_factory.mktemp("tiny"))


def judge(folder: Path, batch_size: int, budget: str = "example", lengths: tuple[int, int] | None = None):
    """With transformers' own forward, whose rounding the oracles share; the fixture's weights magnify it to 1e-5."""
    layout = Layout(load_tokenizer(folder), *(lengths or (blender.SOURCE_MAX, blender.CANDIDATE_MAX)))
    made = PairRMJudge(load_model(folder, layout.marker_ids), layout, batch_size, budget)
    made._forward = made.model
    return made


@pytest.mark.parametrize(("batch_size", "budget"), [(1, "example"), (4, "batch"), (7, "batch")])
def test_scores_are_the_reference_s(
    folder: Path, batch_size: int, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's to the last bit in the reference's batches; the judge's in its own batches, by either forward.

    `quick` is as the stages load wider models.
    Marker strings, over-long sources and answers, [SEP], "…", no-break and zero-width spaces, empty texts.
    """
    reference = Reference(folder, blender.SOURCE_MAX, blender.CANDIDATE_MAX, budget)
    tested = judge(folder, batch_size, budget)
    encoded = tested.layout.encode_all(PAIRS, batch_size)
    f_ab = reference.f(SOURCES, FIRST, SECOND, batch_size)
    f_ba = reference.f(SOURCES, SECOND, FIRST, batch_size)
    for rows, expected in (([e.ab for e in encoded], f_ab), ([e.ba for e in encoded], f_ba)):
        with torch.inference_mode():
            batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
            assert torch.equal(torch.cat([tested.model(**tested.layout.pad(batch)) for batch in batches]), expected)
    with_own_forward = PairRMJudge(tested.model, tested.layout, batch_size, budget).compare_texts(PAIRS)
    monkeypatch.setattr(pairrm_judge, "ONEDNN_FROM", 0)
    settings = {"source_max_length": blender.SOURCE_MAX, "candidate_max_length": blender.CANDIDATE_MAX}
    quick = PairRMJudge.load(settings | {"batch_size": batch_size, "budget": budget}, folder).compare_texts(PAIRS)
    for verdicts, tolerance in ((tested.compare_texts(PAIRS), 1e-5), (with_own_forward, 3e-5), (quick, 3e-5)):
        assert [verdict.f_ab for verdict in verdicts] == pytest.approx(f_ab.tolist(), abs=tolerance)
        assert [verdict.f_ba for verdict in verdicts] == pytest.approx(f_ba.tolist(), abs=tolerance)
    assert sum(verdict.trunc_source for verdict in quick) > 5 < sum(verdict.trunc_a for verdict in quick)
    assert f_ab.abs().median() > 0.1


def test_ids_are_the_reference_s(folder: Path) -> None:
    reference = Reference(folder, blender.SOURCE_MAX, blender.CANDIDATE_MAX)
    layout = judge(folder, 1).layout
    for source, a, b in TRIPLES:
        assert [layout.encode(Pair(source, a, b)).ab] == reference.ids([source], [a], [b])


def test_a_tokenizer_of_another_class_is_seen(folder: Path) -> None:
    """What AutoTokenizer makes of the same folder has lost the normaliser; these texts tell the two apart."""
    right, wrong = load_tokenizer(folder), AutoTokenizer.from_pretrained(str(folder))
    assert type(wrong).__name__.startswith("DebertaV2Tokenizer")
    source, candidate = blender.SOURCE_MAX, blender.CANDIDATE_MAX
    for text in ("the moon…", "gold\u00a0is a metal", "a\u200bmetal", "½ a metal", "ﬁ"):
        rows = [
            Layout(tokenizer, source, candidate).encode(Pair("honey", text, "gold")) for tokenizer in (right, wrong)
        ]
        assert rows[0].ab != rows[1].ab, text
    rebuilt = PairRMJudge(load_model(folder, (0, 0, 0)), Layout(wrong, source, candidate), 1)
    rebuilt.model.marker_ids = rebuilt.layout.marker_ids
    pairs = [Pair("honey", "the moon…", "gold")]
    assert abs(rebuilt.compare_texts(pairs)[0].logit - judge(folder, 1).compare_texts(pairs)[0].logit) > 0.01


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="without AVX2 torch draws the fixture's weights otherwise in their last bits, and these scores magnify that",
)
def test_llm_blender_gives_the_same_compare_scores(folder: Path) -> None:
    pairs = PAIRS[: len(blender.TRIPLES)]
    verdicts = judge(folder, 1).compare_texts(pairs)
    assert [verdict.f_ab for verdict in verdicts] == pytest.approx(LLM_BLENDER["f_ab"], abs=1e-5)
    one_by_one = [verdict.logit for verdict in verdicts]
    assert one_by_one == pytest.approx(LLM_BLENDER["logit_one_by_one"], abs=1e-5)
    in_batches = [verdict.logit for verdict in judge(folder, 4, "batch").compare_texts(pairs)]
    assert in_batches == pytest.approx(LLM_BLENDER["logit_in_batches_of_4"], abs=1e-5)
    assert max(abs(x - y) for x, y in zip(one_by_one, in_batches, strict=True)) > 0.1  # the batch changed a budget


def test_llm_blender_gives_the_same_scores_of_dialogues(folder: Path) -> None:
    questions = []
    for users, earlier, a, b in blender.DIALOGUES:
        prompt = [{"role": "user", "content": users[0]}]
        for answer, user in zip(earlier, users[1:], strict=True):
            prompt += [{"role": "assistant", "content": answer}, {"role": "user", "content": user}]
        questions.append(Question(prompt, a, b))
    lengths = blender.DIALOGUE_SOURCE_MAX, blender.DIALOGUE_CANDIDATE_MAX
    logits = [verdict.logit for verdict in judge(folder, 1, lengths=lengths).compare(questions)]
    assert logits == pytest.approx(LLM_BLENDER["logit_of_dialogues"], abs=1e-5)


def test_llm_blender_gives_the_same_ranks(folder: Path) -> None:
    source, candidates = blender.CANDIDATES[0]
    [scores] = judge(folder, 1).rank([[{"role": "user", "content": source}]], [candidates])
    assert scores == pytest.approx(LLM_BLENDER["rank_scores"], abs=1e-5)
    assert rankdata([-score for score in scores], method="min").tolist() == LLM_BLENDER["ranks"] == [2, 4, 2, 1]
    reference = Reference(folder, blender.SOURCE_MAX, blender.CANDIDATE_MAX)
    assert scores == pytest.approx(reference.rank_scores(source, candidates).tolist(), abs=1e-5)


def test_ranking_several_prompts_at_once_is_ranking_each(folder: Path) -> None:
    prompts = [[{"role": "user", "content": text}] for text in ("the moon", "tell me", "honey")]
    candidates = [["gold", "bees", blender.LONG], ["a metal"], ["gold", "gold"]]
    found = judge(folder, 2).rank(prompts, candidates)
    alone = [judge(folder, 2).rank([p], [c])[0] for p, c in zip(prompts, candidates, strict=True)]
    assert [len(scores) for scores in found] == [3, 1, 2]
    for scores, others in zip(found, alone, strict=True):
        assert scores == pytest.approx(others, abs=1e-5)
    assert found[1] == [0.0] and found[2] == [0.0, 0.0]
