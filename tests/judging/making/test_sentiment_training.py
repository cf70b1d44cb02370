"""A classifier from made-up reviews: right on held-out ones, the same bytes twice, one sentence for useless texts."""

from pathlib import Path
from typing import Any

import pytest
from made_up_reviews import reviews

from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.judging.judges.loading import load_judge
from epsilon_dpo.judging.making.params import JudgeView, SentimentJudge
from epsilon_dpo.judging.making.sentiment_training import held_out_accuracy
from epsilon_dpo.judging.making.sources import build
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json
from epsilon_dpo.pipeline.stage.params import parse

PROMPT = [{"role": "user", "content": "ann and ben say"}]
QUESTIONS = [Question(PROMPT, "the plot is superb", "the plot is dull"), Question(PROMPT, "", "the plot is superb")]


def labelled(count: int = 300, part: str = "classifier") -> list[dict[str, Any]]:
    return [
        {"id": f"r/{n}", "text": text, "label": int(label), "part": part}
        for n, (text, label) in enumerate(reviews(count, seed=len(part)))
    ]


def make(folder: Path, texts: list[dict[str, Any]], classifier: str = "tfidf") -> Any:
    folder.mkdir()
    params = parse(SentimentJudge, {"source": "sentiment", "classifier": classifier, "clip": 4.0})
    return build(params, [], 17, folder, folder / "scratch", lambda *_: None, texts, save_steps=1000)


def test_it_tells_held_out_texts_and_is_loaded_from_its_folder_alone(tmp_path: Path) -> None:
    texts = labelled() + labelled(80, "prompts")
    judge = make(tmp_path / "judge", texts)
    found = held_out_accuracy(judge, texts, 0.95)
    assert found["classifier_accuracy"] > 0.95 and found["classifier_accuracy_n"] == 80
    assert found["classifier_accuracy_low"] < found["classifier_accuracy"] <= found["classifier_accuracy_high"]
    verdicts = judge.compare(QUESTIONS)
    assert verdicts[0].f_ab > 2.0 and verdicts[1].f_ab < 0.0
    assert load_judge(tmp_path / "judge").compare(QUESTIONS) == verdicts
    settings = read_json(tmp_path / "judge" / "judge.json")
    assert settings["kind"] == settings["source"] == "sentiment" and "300 labelled texts" in settings["origin"]


def test_held_out_texts_are_not_trained_on(tmp_path: Path) -> None:
    """Contradicting labels in the other part change nothing but what is measured."""
    wrong = [row | {"label": 1 - row["label"]} for row in labelled(80, "prompts")]
    judge = make(tmp_path / "judge", labelled() + wrong)
    assert held_out_accuracy(judge, labelled() + wrong, 0.95)["classifier_accuracy"] < 0.05
    assert held_out_accuracy(judge, labelled(), 0.95) == {}


def test_the_same_texts_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make(tmp_path / name, labelled())
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    names = {file.name for file in (tmp_path / "one").iterdir()}
    assert names == {"judge.json", "model.safetensors", "vocabulary.json"}, "no pickle"


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ([], r"The 0 texts .* have the labels \[\]"),
        ([row for row in labelled() if row["label"] == 1], r"have the labels \[1\]; it needs both"),
        ([*labelled(), {"id": "r", "text": "so so", "label": 2, "part": "classifier"}], r"the labels \[0, 1, 2\]"),
        (labelled(80, "prompts"), r"The 0 texts"),
        ([row | {"text": f"alpha{n}"} for n, row in enumerate(labelled(10))], "no term occurs twice"),
    ],
)
def test_useless_texts_are_one_sentence(tmp_path: Path, texts: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make(tmp_path / "judge", texts)


def test_vader_needs_no_texts(tmp_path: Path) -> None:
    pytest.importorskip("vaderSentiment")
    judge = make(tmp_path / "judge", [], "vader")
    assert (
        judge.compare(QUESTIONS)[0].f_ab > 0.0 and "VADER 3.3.2" in read_json(tmp_path / "judge/judge.json")["origin"]
    )
    assert held_out_accuracy(judge, labelled(80, "prompts"), 0.95)["classifier_accuracy"] > 0.6


def test_the_block_is_checked() -> None:
    block = {"source": "sentiment", "classifier": "bert", "clip": 4.0}
    with pytest.raises(UserError, match="classifier"):
        parse(JudgeView, {"seed": 1, "threads": 1, "confidence": 0.95, "judge": block})
