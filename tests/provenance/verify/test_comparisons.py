"""Two versions of a file, made by hand: where they differ first, by how much, and what that comes to."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from epsilon_dpo.provenance.verify.compare import Versions, differences, steps_behind, verdict
from epsilon_dpo.provenance.verify.findings import BIT_EQUAL, DIFFERENT, WITHIN, FileDifference, tolerance

Compare = Callable[..., FileDifference]
SHA = "0" * 64


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    """Write both versions by the end of the name, and compare them."""

    def of(name: str, recorded: Any, remade: Any) -> FileDifference:
        paths = tmp_path / f"recorded-{name}", tmp_path / f"remade-{name}"
        for path, content in zip(paths, (recorded, remade), strict=True):
            if path.suffix == ".safetensors":
                save_file(content, path)
            elif path.suffix == ".jsonl":
                path.write_text("".join(json.dumps(row) + "\n" for row in content))
            elif path.suffix == ".json":
                path.write_text(json.dumps(content))
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        (found,) = differences({name: Versions(name, *paths)})
        return found

    return of


def test_the_first_tensor_is_that_of_the_lowest_layer_and_relative_to_its_largest_value(compare: Compare) -> None:
    weights = {f"layers.{n}.w": torch.full((2, 3), 4.0) for n in (2, 10)} | {"same": torch.ones(2)}
    moved = {name: tensor.clone() for name, tensor in weights.items()}
    moved["layers.10.w"][0, 1] += 1.0
    moved["layers.2.w"][1, 2] -= 0.5
    found = compare("model.safetensors", weights, moved)
    assert found.first.where == "tensor layers.2.w[5]"
    assert (found.first.recorded, found.first.remade, found.first.relative) == ("4.0", "3.5", 0.125)
    assert (found.count, found.unit, found.largest) == (2, "tensors", 0.2)


def test_tensors_of_other_types_and_names_are_no_rounding(compare: Compare) -> None:
    a = {"w": torch.ones(2), "old": torch.ones(1)}
    found = compare("model.safetensors", a, {"w": torch.ones(2, dtype=torch.bfloat16), "new": torch.ones(1)})
    assert str(found.first) == "tensor new: recorded absent, now there" and found.count == 3
    assert verdict([found], 10**6) == DIFFERENT


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_within_no_tolerance(compare: Compare, value: float) -> None:
    found = compare("model.safetensors", {"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([1.0, value])})
    assert found.largest == math.inf and found.first.where == "tensor w[1]"
    assert verdict([found], 10**6) == DIFFERENT


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_value_that_is_not_finite_in_both_is_no_scale_of_the_others(compare: Compare, value: float) -> None:
    found = compare("model.safetensors", {"w": torch.tensor([3.0, value, 4.0])}, {"w": torch.tensor([2.0, value, 4.0])})
    assert (found.first.where, found.largest) == ("tensor w[0]", 0.25)
    assert verdict([found], 10**4) == DIFFERENT


def test_a_zero_of_another_sign_is_not_bit_equal(compare: Compare) -> None:
    found = compare("model.safetensors", {"w": torch.tensor([0.0])}, {"w": torch.tensor([-0.0])})
    assert verdict([found], 0) == WITHIN


def test_the_first_step_of_a_curve(compare: Compare) -> None:
    before = [{"step": n, "loss": 1.0 / n, "epoch": 0.1} for n in (10, 20, 30)]
    after = [row | {"loss": row["loss"] * (1 + 1e-6 * (row["step"] > 10))} for row in before]
    found = compare("metrics.jsonl", before, after)
    assert found.first.where == "step 20, loss" and found.count == 2
    assert found.largest == pytest.approx(0.5e-6, rel=1e-3), "of the largest loss, at step 10"


def test_a_value_near_zero_is_rounded_as_the_large_ones_of_its_key_are(compare: Compare) -> None:
    before = [{"id": f"a/{n}", "margin": margin, "step": 3} for n, margin in enumerate((1e-6, -8.0, 2.0))]
    found = compare("records.jsonl", before, [before[0] | {"margin": 9e-6}, *before[1:]])
    assert found.first.where == "row a/0, margin" and found.largest == pytest.approx(1e-6)
    assert verdict([found], 0) == WITHIN
    alone = compare("metrics.json", {"margin": 1e-6}, {"margin": 9e-6})
    assert verdict([alone], 0) == DIFFERENT


def test_a_row_is_named_by_its_id_and_a_text_that_differs_is_different(compare: Compare) -> None:
    row = {"id": "eval/7", "opponent": "sft", "response": "Bees.", "ids": [1, 2]}
    found = compare("samples.jsonl", [row], [row | {"response": "Ants.", "ids": [1, 3]}])
    assert str(found) == "samples.jsonl: row eval/7 sft, response: recorded Bees., now Ants.; 2 values differ"
    assert found.beside == ("row eval/7 sft, response", "row eval/7 sft, ids.1")
    assert verdict([found], 10**6) == DIFFERENT


def test_what_a_terminal_obeys_is_spelled_out(compare: Compare) -> None:
    """A dataset's text, or a policy's, is quoted."""
    row = {"id": "a/0", "response": "\x1b[2JBees."}
    found = compare("samples.jsonl", [row], [row | {"response": "Ants."}])
    assert str(found.first) == "row a/0, response: recorded \\u001b[2JBees., now Ants."


@pytest.mark.parametrize("named", [True, False])
def test_the_same_rows_in_another_order_are_one_place(compare: Compare, named: bool) -> None:
    rows = [{"id": f"a/{n}", "x": n} if named else {"x": n} for n in range(4)]
    found = compare("rows.jsonl", rows, [rows[0], rows[2], rows[1], rows[3]])
    assert found.kinds == {"order"} and found.count == 1 and found.first.where == "line 2"


def test_missing_rows(compare: Compare) -> None:
    rows = [{"id": f"a/{n}"} for n in range(3)]
    assert str(compare("rows.jsonl", rows, rows[:2]).first) == "line 3 of 3: recorded row a/2, now no row, of 2"


def test_a_key_of_json(compare: Compare) -> None:
    before = {"a": {"b": [1.0, 2.0], "n": 3}, "gone": None}
    found = compare("metrics.json", before, {"a": {"b": [1.0, 2.5], "n": 4}, "new": 1})
    assert found.first.where == "a.b.1" and found.first.relative == pytest.approx(0.2)
    assert found.count == 4 and found.kinds == {"number", "text"}


def test_a_count_is_no_rounding(compare: Compare) -> None:
    assert verdict([compare("metrics.json", {"n": 10**9}, {"n": 10**9 + 1})], 10**6) == DIFFERENT


def test_no_number_in_both_is_no_difference(compare: Compare) -> None:
    found = compare("curve.csv", "run,kl\ndpo,nan\ncpo,2.0\n", "run,kl\ndpo,nan\ncpo,2.0000001\n")
    assert found.first.where == "row 2, kl" and found.count == 1 and verdict([found], 0) == WITHIN
    found = compare("curve.csv", "run,kl\ndpo,nan\n", "run,kl\ndpo,1.0\n")
    assert found.largest == math.inf and verdict([found], 10**6) == DIFFERENT


def test_a_cell_of_a_table(compare: Compare) -> None:
    found = compare("runs.csv", "run,kl,n\ndpo,1.0,5\ncpo,2.0,5\n", "run,kl,n\ndpo,1.0,5\ncpo,2.0000001,5\n")
    assert found.first.where == "row 2, kl" and verdict([found], 0) == WITHIN
    count = compare("runs.csv", "run,n\ndpo,1000000000\n", "run,n\ndpo,1000000001\n")
    assert count.first.where == "row 1, n" and verdict([count], 10**6) == DIFFERENT, "a count is not rounded"
    assert compare("runs.csv", "run,kl\ndpo,1.0\n", "run,kl,n\ndpo,1.0,5\n").first.where == "the table"


def test_a_line_of_a_page_and_a_byte_of_an_image(compare: Compare) -> None:
    assert compare("page.html", "<p>\n0.77\n", "<p>\n0.78\n").first.where == "line 2"
    assert compare("plot.png", b"\x89PNG\xff\x00", b"\x89PNG\xff\x01").first.where == "byte 5"
    before = bytes([255]) * 2**20  # more than is read at once
    assert compare("plot.png", before + b"abc", before + b"abd").first.where == "byte 1,048,578"
    assert compare("plot.png", before + b"abc", before + b"a").first.where == "byte 1,048,577"


def test_other_bytes_of_the_same_content_are_different(compare: Compare) -> None:
    found = compare("a.txt", "one\n", "one")
    assert found.first.where == "byte 3"
    assert verdict([found], 10**6) == DIFFERENT


def test_files_that_are_not_there(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text("{}")
    gone, new, lost = (Versions("f", file, None), Versions("f", None, file, known=False), Versions("f", None, file))
    said = [str(differences({"f": versions})[0]) for versions in (gone, new, lost)]
    assert said[:2] == [
        "f: the file: recorded a file, now no such file",
        "f: the file: recorded no such file, now a file",
    ]
    assert "neither the workspace" in said[2]
    assert all(verdict(differences({"f": versions}), 10**6) == DIFFERENT for versions in (gone, new, lost))


def test_a_file_that_is_not_what_its_name_says_is_compared_by_line(compare: Compare, tmp_path: Path) -> None:
    paths = tmp_path / "a", tmp_path / "b"
    for path, text in zip(paths, ("{}\n", "{} broken\n"), strict=True):
        path.write_text(text)
    named = tmp_path / "remade.json"
    named.write_bytes(paths[1].read_bytes())
    assert differences({"x.json": Versions("x.json", paths[0], named)})[0].first.where == "line 1"


def test_a_digest_counts_beside_what_it_is_of_and_not_alone(compare: Compare) -> None:
    weights = compare("model.safetensors", {"w": torch.tensor([1.0])}, {"w": torch.tensor([1.0 + 2**-23])})
    digest = compare("metrics.json", {"policy_sha256": SHA}, {"policy_sha256": SHA.replace("0", "1")})
    assert verdict([weights, digest], 0) == WITHIN
    assert verdict([digest], 0) == DIFFERENT
    assert verdict([], 0) == BIT_EQUAL


def test_one_file_that_is_more_than_rounding_makes_a_stage_different(compare: Compare) -> None:
    """Beside weights that are within the tolerance: answers that are others, or a digest that is none any more."""
    weights = compare("model.safetensors", {"w": torch.tensor([1.0])}, {"w": torch.tensor([1.0 + 2**-23])})
    answers = compare("samples.jsonl", [{"id": "a/0", "text": "Bees."}], [{"id": "a/0", "text": "Ants."}])
    gone = compare("metrics.json", {"policy_sha256": SHA}, {"policy_sha256": "unknown"})
    assert verdict([weights], 0) == WITHIN
    for other in (answers, gone):
        assert verdict([weights, other], 10**6) == verdict([other, weights], 10**6) == DIFFERENT


def test_the_tolerance_is_of_float32_and_grows_as_a_random_walk(compare: Compare, tmp_path: Path) -> None:
    assert tolerance(0) == 2.0**-18
    assert tolerance(99) == pytest.approx(10 * 2.0**-18)
    moved = compare("model.safetensors", {"w": torch.tensor([1.0])}, {"w": torch.tensor([1.0 + 1e-5])})
    assert [verdict([moved], steps) for steps in (0, 100)] == [DIFFERENT, WITHIN]
    curve = tmp_path / "metrics.jsonl"
    curve.write_text('{"step": 10}\n{"step": 94}\n')
    assert steps_behind({"out/align/dpo/metrics.jsonl": curve}) == 94
    assert steps_behind({"out/score/dpo/metrics.json": curve}) == 0
