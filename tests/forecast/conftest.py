"""A simulation of equal arguments is run once for a file: most of its tests change what is made of the bytes."""

from collections.abc import Callable, Iterator
from functools import wraps

import pytest
from transformers import PreTrainedConfig

from epsilon_dpo.forecast import inference, trainings
from epsilon_dpo.forecast.simulation import Simulated

SIMULATED = ((trainings, "sft_step"), (trainings, "alignment_step"), (inference, "passes"), (inference, "reading"))


def _once(simulate: Callable[..., Simulated]) -> Callable[..., Simulated]:
    found: dict[object, Simulated] = {}

    @wraps(simulate)
    def asked(config: PreTrainedConfig, *how: object) -> Simulated:
        key = repr((config, config._attn_implementation, how))
        if key not in found:
            found[key] = simulate(config, *how)
        return found[key]

    return asked


@pytest.fixture(scope="module", autouse=True)
def _simulated_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, name in SIMULATED:
            patch.setattr(module, name, _once(getattr(module, name)))
        yield
