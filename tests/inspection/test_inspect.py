"""`epsilon-dpo inspect`: what it says of a file is so, and what it prints to paste is a params.yaml that reads it."""

import json
import re
import shutil
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from hub_stand_in import REVISION, Hub, point_to
from ruamel.yaml import YAML

from epsilon_dpo.check.params_file import load_file
from epsilon_dpo.cli import main
from epsilon_dpo.data.sources.formats import DataFile, rows_of
from epsilon_dpo.data.sources.params import DatasetSource
from epsilon_dpo.data.sources.published import FIRST_ROWS, read_dataset
from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.inspection.blocks import eval_share, fitting_tokens, raised

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["moss", "fern", "pine", "birch", "stone", "brook", "cloud", "ember", "frost", "grain"]


def rows(count: int) -> list[dict]:
    """Prompts of 8 to 206 words, so that some do not fit the default's 64 tokens; answers that differ."""
    return [
        {
            "question": f"Number {n}: " + " ".join(WORDS[(n + i) % 10] for i in range(6 + 2 * (n % 100))),
            "good": f"It is {WORDS[n % 10]}, {n}.",
            "bad": f"No idea, {n}.",
        }
        for n in range(count)
    ]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pasted(printed: str) -> dict:
    return YAML(typ="safe").load(printed.partition("Paste into params.yaml")[2].partition("\n\n")[2])


COLUMNS = ["--columns", "prompt=question", "chosen=good", "rejected=bad"]


def test_what_is_said_and_what_is_pasted(project: Path, capsys: pytest.CaptureFixture) -> None:
    content = rows(200)
    content[7]["bad"] = content[7]["good"]
    content[9]["good"] = ""
    (project / "data/mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")
    main(["inspect", "data/mine.jsonl", *COLUMNS])
    said = capsys.readouterr().out
    assert "data/mine.jsonl: 200 rows read, 200 pairs" in said
    assert "columns  prompt = question, chosen = good, rejected = bad" in said
    assert "sides_differ: 1 rows fail it, dropped; the first is mine/8 (both answers are the same text" in said
    assert "sides_not_empty: 1 rows fail it, dropped; the first is mine/10 (no text in chosen turn 2" in said
    assert "prompt_fits: " in said and "more than tokens.max_prompt_length = 64: would be dropped" in said
    assert "    │ <bos><start_of_turn>user\n    │ Number " in said
    assert ".<end_of_turn>\n" in said.partition("  chosen, ")[2] and "    ▌ It is " in said

    blocks = pasted(said)
    assert "The judge, trained on these pairs, cuts 8" in said and "and 0.0% of the answers" in said
    assert set(blocks) == {"fetch", "tokens", "base", "validate", "judge"}
    yaml = YAML()
    params = yaml.load((project / "params.yaml").read_text("utf-8"))
    params.update(blocks)
    with (project / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    read = load_file()
    dataset = read_dataset(read.fetch, read.seed, project / "scratch")
    assert len(dataset.train) + len(dataset.eval) == 200
    assert len(dataset.eval) >= read.contract.min_eval_pairs
    assert read.tokens.max_prompt_length > 64 and read.judge.source_max_length > 200
    main(["inspect", "data/mine.jsonl", *COLUMNS])
    again = capsys.readouterr().out
    assert "prompt_fits" not in again and set(pasted(again)) == {"fetch"}, "pasted once, nothing is left to change"


def test_a_split_of_the_data_is_used_to_evaluate(project: Path, capsys: pytest.CaptureFixture) -> None:
    (project / "data/mine").mkdir()
    for split, count in (("train", 90), ("test", 30)):
        (project / f"data/mine/{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows(count)), "utf-8"
        )
    main(["inspect", "data/mine", *COLUMNS])
    said = capsys.readouterr().out
    assert "splits   train (1 file), test (1 file); read: train and test" in said
    blocks = pasted(said)
    fetch, validate = blocks["fetch"], blocks["validate"]
    assert (fetch["train_split"], fetch["eval_split"], fetch["eval_share"]) == ("train", "test", None)
    assert (validate["min_train_pairs"], validate["min_eval_pairs"]) == (45, 15), "half of what is there"
    main(["inspect", "data/mine", "--rows", "60", *COLUMNS])
    assert "The contract of `validate` on 60 rows" in capsys.readouterr().out, "half of each split"
    main(["inspect", "data/mine", "--split", "test[:50%]", *COLUMNS])
    fetch = pasted(capsys.readouterr().out)["fetch"]
    assert (fetch["train_split"], fetch["eval_split"]) == ("test[:50%]", None), "not the rows that are trained on"


TIED = {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "score_chosen": 1, "score_rejected": 1}
UNANSWERED = "data/mine/test.jsonl has no shape of preference data that is known here; it has prompt (text). "


@pytest.mark.parametrize(
    ("held_out", "sentence"),
    [
        ({"prompt": "Why?"}, UNANSWERED),
        (
            {"prompt": "Why?", "answers": ["So.", "No."], "scores": [1, 0]},
            "data/mine/test.jsonl reads as scored_answers, but data/mine/",
        ),
        (TIED, "No row of the split test of data/mine makes a pair; the first, test/1: both answers"),
        (
            {"prompt": "Why?", "chosen": 1, "rejected": 2},
            "data/mine/test.jsonl has no shape of preference data that is",
        ),
    ],
    ids=["no answers", "another shape", "no pair", "no texts"],
)
def test_a_split_that_cannot_be_evaluated_on_is_left_out_by_name(
    project: Path, capsys: pytest.CaptureFixture, held_out: dict, sentence: str
) -> None:
    """A share of the training prompts is set aside instead, and what is pasted is read by stage fetch."""
    (project / "data/mine").mkdir()
    content = [{"prompt": row["question"], "chosen": row["good"], "rejected": row["bad"]} for row in rows(90)]
    for split, some in (("train", content), ("test", [held_out] * 5)):
        (project / f"data/mine/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), "utf-8")
    main(["inspect", "data/mine"])
    said = capsys.readouterr().out
    assert "90 rows read, 90 pairs" in said and "splits   train (1 file), test (1 file); read: train\n" in said
    assert f"\n  left out test, at which stage fetch would stop: {sentence}" in said
    fetch = pasted(said)["fetch"]
    assert (fetch["train_split"], fetch["eval_split"], fetch["eval_share"]) == ("train", None, 0.5)
    dataset = read_dataset(DatasetSource(**fetch), 1, project / "scratch")
    assert len(dataset.train) + len(dataset.eval) == 90

    (project / "data/mine/validation.jsonl").write_text(json.dumps(content[0]) + "\n", "utf-8")
    main(["inspect", "data/mine"])
    said = capsys.readouterr().out
    assert "\n  left out test, at which" in said and pasted(said)["fetch"]["eval_split"] == "validation", "the next one"


def test_splits_that_are_left_out_cost_no_reading_of_the_split_to_train_on(
    project: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have millions of rows."""
    (project / "data/mine").mkdir()
    pair = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
    for split, row in (("train", pair), ("test", TIED), ("validation", {"prompt": "Why?"})):
        (project / f"data/mine/{split}.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    read: Counter[str] = Counter()
    monkeypatch.setattr(
        "epsilon_dpo.data.sources.published.rows_of", lambda file: (read.update([file.name]), rows_of(file))[1]
    )
    main(["inspect", "data/mine"])
    said = capsys.readouterr().out
    assert said.count("\n  left out ") == 2 and pasted(said)["fetch"]["eval_split"] is None
    assert read["train.jsonl"] == 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [("", "owner/open at revision 01234567 is not in the local cache and"), ("GatedRepo", "owner/open is gated")],
)
def test_a_split_that_the_hub_does_not_give_now_is_not_left_out(
    project: Path, monkeypatch: pytest.MonkeyPatch, error: str, sentence: str
) -> None:
    """What is pasted would set a share of the training prompts aside, of a dataset with a `test`."""
    pairs = "".join(json.dumps({"prompt": f"Why {n}?", "chosen": "So.", "rejected": "No."}) + "\n" for n in range(9))
    monkeypatch.setattr(Hub, "files", {f"{split}.jsonl": pairs.encode() for split in ("train", "test")})

    class Refusing(Hub):
        def do_GET(self) -> None:
            if self.path.endswith("/test.jsonl"):
                self.answer(403, error=error)
            else:
                super().do_GET()

        do_HEAD = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        point_to(f"http://127.0.0.1:{server.server_port}", project / "cache", monkeypatch)
        with pytest.raises(SystemExit, match=f"ERROR: {sentence}"):
            main(["inspect", "owner/open", "--revision", REVISION])
        server.shutdown()


def test_a_split_to_train_on_that_cannot_be_read_stops(project: Path) -> None:
    """Whatever there is to evaluate on."""
    (project / "data/mine").mkdir()
    pair = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
    (project / "data/mine/test.jsonl").write_text(json.dumps(pair) + "\n", "utf-8")
    (project / "data/mine/train.jsonl").write_text(json.dumps(TIED) + "\n", "utf-8")
    with pytest.raises(SystemExit, match="No row of the split train of data/mine makes a pair; the first, train/1: "):
        main(["inspect", "data/mine"])
    content = [pair] * 30 + [pair | {"images": ["a.png"]}]
    (project / "data/mine/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")
    with pytest.raises(SystemExit, match=r"ERROR: data/mine/train\.jsonl, row 31: has images, which is not supported"):
        main(["inspect", "data/mine"])


def test_of_many_splits_those_of_preferences_are_read(project: Path, capsys: pytest.CaptureFixture) -> None:
    """As in UltraFeedback binarized."""
    (project / "data/mine").mkdir()
    named = ""
    for split, count in (("train_sft", 1), ("train_prefs", 30), ("test_sft", 1), ("test_prefs", 20)):
        file = project / f"data/mine/{split}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows(count)), "utf-8")
        named += f"\n  - split: {split}\n    path: {file.name}"
    head = f"---\nconfigs:\n- config_name: default\n  data_files:{named}\n---\n"
    (project / "data/mine/README.md").write_text(head, "utf-8")
    main(["inspect", "data/mine", *COLUMNS])
    said = capsys.readouterr().out
    assert "data/mine: 50 rows read, 50 pairs" in said and "read: train_prefs and test_prefs" in said


@pytest.mark.parametrize(
    ("split", "last"), [([], FIRST_ROWS), (["--split", "train[5:]"], 5 + FIRST_ROWS), (["--split", "train[5:15]"], 15)]
)
def test_a_file_is_recognised_by_its_first_rows_without_reading_the_others(
    project: Path, monkeypatch: pytest.MonkeyPatch, split: list[str], last: int
) -> None:
    """They would be in memory all at once."""
    (project / "data/mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(40)), "utf-8")
    seen: list[int] = []

    def watched(file: DataFile) -> Iterator[tuple[int, dict]]:
        for number, row in rows_of(file):
            seen.append(number)
            yield number, row

    monkeypatch.setattr("epsilon_dpo.inspection.inspect.rows_of", watched)
    main(["inspect", "data/mine.jsonl", *split, *COLUMNS])
    assert seen == list(range(1, last + 1))


def test_the_shares_of_what_is_too_long_are_said(project: Path, capsys: pytest.CaptureFixture) -> None:
    """Of ten pairs one prompt, two chosen answers and one rejected one have 300 words, each a token or more, and no
    other text has 64 bytes. The long prompt's row is dropped, and of the others' 18 answers three are cut. The judge,
    which cuts each text by itself, cuts that prompt and three of twenty answers."""
    long = " ".join(["moss"] * 300)
    content = [{"prompt": f"Number {n}?", "chosen": f"Yes, {n}.", "rejected": f"No, {n}."} for n in range(10)]
    content[0]["prompt"] = content[1]["chosen"] = content[2]["chosen"] = content[3]["rejected"] = long
    (project / "data/mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")
    main(["inspect", "data/mine.jsonl"])
    said = capsys.readouterr().out
    assert (
        "  max_prompt_length: 64, max_length: 160: 10.0% of the prompts do not fit, 16.7% of the kept answers are cut\n"
        "  sample.max_new_tokens: 64: 22.2% of the kept chosen answers are longer than a policy's may be\n"
    ) in said
    assert "The judge, trained on these pairs, cuts 10.0% of the prompts and 15.0% of the answers\n" in said


def test_where_no_row_is_kept_no_answer_is_counted(project: Path, capsys: pytest.CaptureFixture) -> None:
    long = "moss " * 300
    content = [{"prompt": f"Number {n}? {long}", "chosen": long, "rejected": "No."} for n in range(3)]
    (project / "data/mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")
    main(["inspect", "data/mine.jsonl"])
    said = capsys.readouterr().out
    assert "100.0% of the prompts do not fit, none of the kept answers are cut\n" in said
    assert ": none of the kept chosen answers are longer than a policy's may be\n" in said


def test_how_much_of_a_long_answer_is_cut_is_said(project: Path, capsys: pytest.CaptureFixture) -> None:
    """Prompt and answer share the default's 160 tokens."""
    row = {"prompt": "Number?", "chosen": " ".join(["moss"] * 300), "rejected": "No."}
    (project / "data/one.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    main(["inspect", "data/one.jsonl"])
    said = capsys.readouterr().out
    shown = re.search(
        r"prompt, (\d+) tokens\n[^▌]*chosen, (\d+) tokens, the last (\d+) cut at tokens.max_length\n", said
    )
    assert shown is not None
    prompt, answer, cut = map(int, shown.groups())
    assert prompt + answer - cut == 160 and prompt > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data/none.jsonl"], "data/none.jsonl does not exist"),
        (["data/mine.jsonl", "--columns", "prompt"], "--columns prompt names no column; write it as prompt=<the file"),
        (["data/mine.jsonl", "--columns", "prompt=q"], "has no column 'q' (fetch.columns); it has question (text)"),
        (["data/mine.jsonl", "--columns", "promt=question"], "columns maps to 'promt', which no shape reads"),
        (["data/mine.jsonl", "--revision", "main"], "--revision: String should match pattern"),
        (["data/mine.jsonl", "--split", "test", *COLUMNS], "has no split 'test' (--split); its splits are train"),
        (
            ["data/mine.jsonl", "--split", "train[:1%]", *COLUMNS],
            "The split train[:1%] of data/mine.jsonl holds no row",
        ),
        (["data/mine.jsonl", "--split", "train[:x%]", *COLUMNS], "ERROR: --split 'train[:x%]' is no split"),
        (["data/mine.jsonl", "--split", "train+train", *COLUMNS], "ERROR: --split 'train+train' reads the split train"),
        (["data/mine.jsonl", "--split", "train[:2]+train[1:]", *COLUMNS], "reads rows of the split train twice"),
        (["org/name"], "a dataset on the Hub, owner/name, needs its revision"),
        (["data/../mine.jsonl"], "is not below data/, the folder that DVC watches"),
        (
            ["data/tied.jsonl"],
            "No row of the split train of data/tied.jsonl makes a pair; the first, tied/1: both answers",
        ),
        (["data/digits.jsonl"], "data/digits.jsonl, row 1 has a number of thousands of digits"),
        (["data/damaged.parquet", "--split", "train[:50%]"], "is no parquet file, or it is cut off or damaged"),
    ],
)
def test_what_cannot_be_read_is_one_line(project: Path, arguments: list[str], sentence: str) -> None:
    (project / "data/mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(3)), "utf-8")
    (project / "data/tied.jsonl").write_text(f"{json.dumps(TIED)}\n" * 2, "utf-8")
    (project / "data/digits.jsonl").write_text('{"prompt": ' + "9" * 5000 + "}\n", "utf-8")
    (project / "data/damaged.parquet").write_bytes(b"PAR1" + b"x" * 100)
    with pytest.raises(SystemExit) as ended:
        main(["inspect", *arguments])
    assert str(ended.value).startswith("ERROR: ") and "\n" not in str(ended.value)
    assert sentence in str(ended.value)


def test_prompts_that_the_splits_share_are_said(project: Path, capsys: pytest.CaptureFixture) -> None:
    (project / "data/mine").mkdir()
    spaced = [{**row, "question": f"{row['question']}\n"} for row in rows(10)]  # no other prompts
    for split, some in (("train", rows(40)), ("test", spaced)):
        (project / f"data/mine/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), "utf-8")
    main(["inspect", "data/mine", *COLUMNS])
    assert "splits_share_no_prompt: 10 training rows fail it, the pipeline stops" in capsys.readouterr().out


def test_one_row_is_enough_to_look_at(project: Path, capsys: pytest.CaptureFixture) -> None:
    (project / "data/one.jsonl").write_text(json.dumps(rows(1)[0]) + "\n", "utf-8")
    main(["inspect", "data/one.jsonl", *COLUMNS])
    assert "1 rows read, 1 pairs" in capsys.readouterr().out


def test_nothing_that_a_terminal_obeys_is_printed(project: Path, capsys: pytest.CaptureFixture) -> None:
    """A dataset's text could colour or clear the screen, overwrite its line, or turn what follows around."""
    obeyed = "\x1b[2J \x9b31m \r \b \x00 \u202e \u2066 \u2028"
    content = rows(1)
    content[0]["question"] = f"Füße, 语言, لغة, 👩\u200d🚀\tand {obeyed}?\nA second line."
    content[0] |= {"\x1b[31mred": 1}
    (project / "data/mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")
    main(["inspect", "data/mine.jsonl", *COLUMNS])
    said = capsys.readouterr().out
    assert not set(obeyed) & set(said) - {" ", *"[2J31m"}
    assert "not read: \\u001b[31mred" in said
    assert "Füße, 语言, لغة, 👩\u200d🚀\tand " in said
    assert "and \\u001b[2J \\u009b31m \\u000d \\u0008 \\u0000 \\u202e \\u2066 \\u2028?\n" in said
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "data/mine.jsonl", "--columns", "prompt=question", "chosen=good", "rejected=\x1b[31mred"])
    assert "\x1b" not in str(ended.value) and "\\u001b[31mred" in str(ended.value)


def test_limits_are_raised_only_as_far_as_the_lengths_ask() -> None:
    lengths = [{"prompt_tokens": p, "chosen_tokens": 20, "rejected_tokens": 10} for p in range(1, 101)]
    assert fitting_tokens(lengths, Tokens(max_prompt_length=100, max_length=120), 0.01) == Tokens(
        max_prompt_length=100, max_length=120
    )
    # 99 of 100 prompts have at most 99 tokens: 112 is the next multiple of 16, and 119 tokens need 128.
    assert fitting_tokens(lengths, Tokens(max_prompt_length=50, max_length=60), 0.01) == Tokens(
        max_prompt_length=112, max_length=128
    )
    # The longest of the longer answers end at 100 + 60 tokens, whichever side they are on.
    for chosen, rejected in ((60, 20), (20, 60)):
        unequal = [row | {"chosen_tokens": chosen, "rejected_tokens": rejected} for row in lengths]
        assert fitting_tokens(unequal, Tokens(max_prompt_length=50, max_length=60), 0.01) == Tokens(
            max_prompt_length=112, max_length=160
        )


def test_limits_that_fit_stay_as_they_are() -> None:
    """Also where they leave an answer little room, or where no row is left to be measured."""
    limits = Tokens(max_prompt_length=100, max_length=110)
    short = [{"prompt_tokens": p, "chosen_tokens": 10, "rejected_tokens": 3} for p in range(1, 101)]
    assert fitting_tokens(short, limits, 0.01) == limits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitting_tokens([], limits, 0.01) == limits


def test_answers_may_be_as_long_as_nineteen_of_twenty() -> None:
    assert [raised(limit, range(1, 101)) for limit in (94, 95, 96)] == [96, 95, 96]
    assert raised(64, []) == 64


def test_dialogues_longer_than_the_defaults_are_sampled_and_judged_to_their_end(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    """Answers of 100 tokens and more, of which the default draws 64 and its judge reads 61."""
    content = [row | {"good": row["question"] + " Yes.", "bad": row["question"] + " No."} for row in rows(60)]
    (project / "data/mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")
    main(["inspect", "data/mine.jsonl", *COLUMNS])
    blocks = pasted(capsys.readouterr().out)
    assert blocks["sample"]["max_new_tokens"] > 100 and blocks["judge"]["candidate_max_length"] > 100
    assert blocks["base"]["max_position_embeddings"] >= sum(
        (blocks["tokens"]["max_prompt_length"], blocks["sample"]["max_new_tokens"])
    )


def test_what_is_drawn_to_train_on_has_its_place_too(project: Path, capsys: pytest.CaptureFixture) -> None:
    """Candidates that are longer than the answers that are compared: after a prompt of 129 tokens they need 257."""
    yaml = YAML()
    params = yaml.load((ROOT / "presets/on-policy.yaml").read_text("utf-8"))
    params["candidates"]["max_new_tokens"] = 128
    with (project / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    (project / "data/mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(60)), "utf-8")
    main(["inspect", "data/mine.jsonl", *COLUMNS])
    params.update(pasted(capsys.readouterr().out))
    with (project / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    assert load_file().tokens.max_prompt_length > 128


def test_the_share_set_aside() -> None:
    assert [eval_share(pairs) for pairs in (10, 512, 2560, 1_000_000)] == [0.5, 0.5, 0.1, 0.02]
