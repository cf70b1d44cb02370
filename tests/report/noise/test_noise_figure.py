"""`epsilon-dpo noise`: finished pipelines at several levels of noise, as rows and as a figure."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from epsilon_dpo.cli import main

CONFIGS = {"dpo": {"method": "dpo", "beta": 0.3}, "mine": {"method": "epsilon_dpo", "beta": 0.3, "epsilon": 0.01}}
WON = {"sft": 0.4, "dpo": 0.7, "mine": 0.6}  # without noise; each level costs as much as it flips


def policy(rate: float) -> dict[str, float]:
    return {
        f"true_win_rate/chosen{end}": rate + beside for end, beside in (("", 0.0), ("_low", -0.05), ("_high", 0.04))
    }


def summary(folder: Path, flip: float, **changes: Any) -> Path:
    content = {
        "confidence": 0.95,
        "n": 256,
        "dataset": {"source": "synthetic", "flip_rate": flip, "labels_flipped": flip + 0.01},
        "data_sha256": {"train.jsonl": str(flip), "eval.jsonl": "same"},
        "sft": policy(WON["sft"] - flip),
        "runs": {name: {"config": config, **policy(WON[name] - flip)} for name, config in CONFIGS.items()},
        **changes,
    }
    path = folder / f"noise-{flip}{len(changes)}.json"
    path.write_text(json.dumps(content), "utf-8")
    return path


def test_each_level_and_policy_is_a_row_and_a_point(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, path, **_: (path.write_bytes(b"drawn"), figures.append(figure))
    )
    files = [str(summary(tmp_path, flip)) for flip in (0.2, 0.0, 0.1)]
    main(["noise", str(tmp_path / "out"), *files])
    assert "9 win rates at 3 levels of noise" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"noise.csv", "noise.png"}
    with (tmp_path / "out" / "noise.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(float(row["flip_rate"]), row["policy"]) for row in rows] == [
        (flip, name) for flip in (0.0, 0.1, 0.2) for name in WON
    ]
    for row in rows:
        rate = WON[row["policy"]] - float(row["flip_rate"])
        found = [float(row[name]) for name in ("win_rate", "win_rate_low", "win_rate_high")]
        assert found == pytest.approx([rate, rate - 0.05, rate + 0.04])
        assert (row["n"], row["confidence"]) == ("256", "0.95")
        assert float(row["labels_flipped"]) == pytest.approx(float(row["flip_rate"]) + 0.01)

    (figure,) = figures
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0%", "10%", "20%"]
    drawn = {container.get_label(): container for container in panel.containers}
    assert list(drawn) == list(WON)
    for name, container in drawn.items():
        line, _, (bars,) = container.lines
        assert line.get_ydata() == pytest.approx([WON[name] - flip for flip in (0.0, 0.1, 0.2)])
        assert line.get_xdata() == pytest.approx([0.0, 0.1, 0.2], abs=0.02)
        for bar, flip in zip(bars.get_segments(), (0.0, 0.1, 0.2), strict=True):
            assert bar[:, 1].tolist() == pytest.approx([WON[name] - flip - 0.05, WON[name] - flip + 0.04])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(WON)
    places = [container.lines[0].get_xdata()[0] for container in drawn.values()]
    assert len(set(places)) == 3, "intervals of one level do not lie on each other"


def test_the_same_summaries_give_the_same_bytes(tmp_path: Path) -> None:
    files = [str(summary(tmp_path, flip)) for flip in (0.0, 0.3)]
    for name in ("one", "other"):
        main(["noise", str(tmp_path / name), *files])
    for name in ("noise.csv", "noise.png"):
        content = (tmp_path / "one" / name).read_bytes()
        assert len(content) > 100 and (tmp_path / "other" / name).read_bytes() == content


LEVEL = {"source": "synthetic", "flip_rate": 0.1, "labels_flipped": 0.1}
OTHER_RUNS = {name: {"config": CONFIGS["dpo"] | {"beta": 0.1}, **policy(0.5)} for name in CONFIGS}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"runs": OTHER_RUNS}, "differ in their runs"),
        ({"data_sha256": {"eval.jsonl": "other"}}, "differ in their evaluation pairs"),
        ({"n": 128}, "differ in the prompts that were answered"),
        ({"confidence": 0.9}, "differ in the confidence of their intervals"),
        ({"dataset": LEVEL | {"rows": 40}}, "differ in the number of their pairs or their seed"),
        ({"dataset": LEVEL | {"seed": 18}}, "differ in the number of their pairs or their seed"),
        ({"dataset": {"source": "synthetic"}}, "is of data whose noise is not known; set fetch.annotators"),
        ({"dataset": {"flip_rate": 0.0, "labels_flipped": 0.0}}, "are of the same level of noise, 0; leave out one"),
    ],
)
def test_summaries_that_cannot_be_compared_are_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    files = [str(summary(tmp_path, 0.0)), str(summary(tmp_path, 0.1, **changes))]
    with pytest.raises(SystemExit, match=sentence) as end:
        main(["noise", str(tmp_path / "out"), *files])
    assert "\n" not in str(end.value.code)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".json"], "nothing is left half-written"


def test_what_is_no_summary_and_a_folder_that_exists_are_refused(tmp_path: Path) -> None:
    good, bad = summary(tmp_path, 0.0), tmp_path / "bad.json"
    for content in ("", "[]", '{"runs": {}}'):
        bad.write_text(content, "utf-8")
        with pytest.raises(SystemExit, match=r"bad\.json is no summary\.json of stage report"):
            main(["noise", str(tmp_path / "out"), str(good), str(bad)])
    with pytest.raises(SystemExit, match=r"absent\.json does not exist"):
        main(["noise", str(tmp_path / "out"), str(good), str(tmp_path / "absent.json")])
    for files in ([good], [good, good]):
        with pytest.raises(SystemExit, match="needs summaries of at least two levels"):
            main(["noise", str(tmp_path / "out"), *map(str, files)])
    kept = tmp_path / "kept"
    kept.mkdir()
    with pytest.raises(SystemExit, match="kept exists; name a folder to make"):
        main(["noise", str(kept), str(good), str(summary(tmp_path, 0.1))])
    assert kept.is_dir()
