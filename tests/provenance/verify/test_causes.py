"""The likely cause, from what was recorded, what is here and what a second run gives."""

from collections.abc import Mapping

import pytest

from epsilon_dpo.provenance.verify.causes import likely_cause
from epsilon_dpo.provenance.verify.findings import Place, gathered, text_place
from epsilon_dpo.provenance.verify.surroundings import settings_to_try

HERE = {
    "python": "3.11.7",
    "torch": "2.13.0",
    "machine": "Linux x86_64, 2 CPUs",
    "processor": "AMD EPYC",
    "processor.features": "avx avx2 avx512f fma",
    "processor.variables": "none",
}
ROUNDED = [gathered("out/sft/metrics.jsonl", [Place("step 10, loss", "number", "1.0", "1.0000001", 1e-7)], "values")]
OTHER = [gathered("out/sft/metrics.jsonl", [Place("step 10, loss", "number", "1.0", "1.1", 0.09)], "values")]


def cause(
    before: dict[str, str] | None, now: dict[str, str] = HERE, found: list = ROUNDED, trial=None, proved: str = ""
) -> str:
    return likely_cause(found, before, now, 10, trial, proved)


class Stage:
    """Makes the recorded bytes where `proof` (a variable and its value) is set, and else `otherwise`."""

    def __init__(self, proof: tuple[str, str | None] | None = None, otherwise: str = "first") -> None:
        self.proof, self.otherwise, self.runs = proof, otherwise, 0

    def __call__(self, variables: Mapping[str, str | None]) -> str:
        self.runs += 1
        proven = self.proof and self.proof[0] in variables and variables[self.proof[0]] == self.proof[1]
        return "recorded" if proven else self.otherwise


def test_a_package() -> None:
    assert cause(HERE | {"torch": "2.12.1"}) == "package: torch was 2.12.1 and is 2.13.0"


def test_the_processor_by_its_features_and_by_the_variables() -> None:
    narrower = HERE | {"processor": "Old Xeon", "processor.features": "avx avx2 fma"}
    said = "processor features: it was made on another processor, Old Xeon; only this one has avx512f"
    assert cause(narrower) == said
    said = "processor features: the variables were none and are ATEN_CPU_CAPABILITY=default"
    assert cause(HERE, HERE | {"processor.variables": "ATEN_CPU_CAPABILITY=default"}) == said


def test_threads_and_gpu() -> None:
    assert cause(HERE | {"machine": "Linux x86_64, 64 CPUs"}).startswith("threads: it was made on Linux x86_64, 64")
    assert cause(HERE | {"gpu": "NVIDIA H100"}) == "GPU: it was NVIDIA H100 and is none"


def test_several_facts_are_all_named() -> None:
    said = cause(HERE | {"torch": "2.12.1", "processor.features": "avx"})
    assert said.startswith("package: ") and " and processor features: " in said


def test_what_is_proved_comes_before_what_is_recorded() -> None:
    stage = Stage(("ATEN_CPU_CAPABILITY", "avx2"))
    said = cause(HERE | {"processor.features": "avx avx2", "torch": "2.12.1"}, trial=stage)
    assert said == "processor features: run once more as one without AVX-512 computes, it is bit-equal"
    assert stage.runs == 1


def test_a_record_that_says_nothing_of_processors_leaves_them_to_be_tried() -> None:
    old = {name: value for name, value in HERE.items() if not name.startswith("processor")}
    stage = Stage(("ATEN_CPU_CAPABILITY", "default"))
    assert "as one without AVX2 computes, it is bit-equal" in cause(old, trial=stage)
    assert stage.runs == 2
    said = "unknown: what MLflow recorded of it is the same here, and does not say on which processor it was made; "
    assert cause(old).startswith(said)
    assert cause(old, proved="base") == "processor features, as of base; not tried again"


def test_without_a_record_the_variables_that_are_set_are_tried_first() -> None:
    here = HERE | {"processor.variables": "ONEDNN_MAX_CPU_ISA=AVX2"}
    stage = Stage(("ONEDNN_MAX_CPU_ISA", None))
    assert cause(None, here, trial=stage) == (
        "processor features: run once more without ONEDNN_MAX_CPU_ISA=AVX2, it is bit-equal"
    )
    assert next(iter(settings_to_try(None, here).values()))["ATEN_CPU_CAPABILITY"] is None


def test_recorded_variables_are_set_again() -> None:
    before = HERE | {"processor.variables": "ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2"}
    ((what, variables),) = settings_to_try(before, HERE).items()
    assert what == "with ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2, as it was recorded"
    set_again = {name: value for name, value in variables.items() if value is not None}
    assert set_again == {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}


def test_a_recorded_variable_may_be_a_list_with_spaces() -> None:
    """As numpy reads it."""
    said = "MKL_CBWR=AVX2 NPY_DISABLE_CPU_FEATURES=AVX512F AVX512CD GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2"
    (variables,) = settings_to_try(HERE | {"processor.variables": said}, HERE).values()
    assert {name: value for name, value in variables.items() if value is not None} == {
        "MKL_CBWR": "AVX2",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2",
    }


@pytest.mark.parametrize("features", ["asimd sve", "unknown", "avx"])
def test_what_this_processor_cannot_do_is_not_tried(features: str) -> None:
    assert settings_to_try(None, HERE | {"processor.features": features}) == {}
    assert settings_to_try(HERE, HERE) == {}


@pytest.mark.parametrize("second", ["other", "recorded"])
def test_a_stage_that_differs_from_itself(second: str) -> None:
    """Also where its second run gives the recorded bytes, which the first did not."""
    assert cause(HERE, trial=Stage(otherwise=second)).startswith("not deterministic here")


def test_a_second_run_that_failed_proves_nothing() -> None:
    failed = Stage(otherwise="the second run failed: no memory")
    said = cause(HERE, trial=failed)
    assert said.startswith("unknown: ") and said.count("the second run failed: no memory") == 1
    said = cause(HERE | {"torch": "2.12.1"}, trial=Stage(otherwise="the second run failed: no memory"))
    assert said == "package: torch was 2.12.1 and is 2.13.0; the second run failed: no memory"


def test_data_order_is_seen_in_the_counted_tokens() -> None:
    places = [Place("step 10, loss", "number", "1.0", "1.1", 0.09), text_place("step 10, num_tokens", 7, 9)]
    later = [places[0], text_place("step 20, num_tokens", 7, 9)]
    assert cause(HERE, found=[gathered("out/sft/metrics.jsonl", places, "values")]).startswith("data order: at step 10")
    assert cause(HERE, found=[gathered("out/sft/metrics.jsonl", later, "values")]).startswith("unknown")


def test_where_nothing_is_known_the_size_is_said() -> None:
    assert "it begins as rounding does (relative 1.0e-07): processor features, threads" in cause(None)
    assert "larger than rounding from the first place on: a package, data order" in cause(None, found=OTHER)
    said = cause(None, found=OTHER, trial=Stage())
    assert said.startswith("unknown: MLflow has no record of it, and a second run here gave the same bytes")
