"""A killed sampling goes on from its last state: the same tokens, and the model is asked for what was missing alone."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from epsilon_dpo.sampling.answers.params import Logits
from epsilon_dpo.sampling.answers.processors import ProcessedNoise
from epsilon_dpo.sampling.decoding import kept_state
from epsilon_dpo.sampling.decoding.decoding import decode
from epsilon_dpo.sampling.decoding.kept_state import KeptState
from epsilon_dpo.sampling.decoding.noise import GumbelNoise

STOP, LONGEST, PROMPTS = 2, 24, 40
SHAPED = Logits(top_p=0.95, top_k=40, min_p=None, repetition_penalty=1.3)  # whose noise also remembers the tokens


@pytest.fixture(autouse=True)
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_state, "EVERY_S", 0.0)
    monkeypatch.setattr(kept_state, "SHARE", float("inf"))


def drawn_prompts() -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(5, 64) for _ in range(rng.randint(1, 30))] for _ in range(PROMPTS)]


class Killed(Exception):
    pass


class Asked:
    """Counts the forward passes of a model, and raises at the one that it is told."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.count, self.limit = model, 0, None
        model.register_forward_pre_hook(self._hook)

    def _hook(self, *_: Any) -> None:
        if self.limit is not None and self.count >= self.limit:
            raise Killed
        self.count += 1


def noise_of(shaped: bool) -> GumbelNoise | ProcessedNoise:
    seeds = list(range(PROMPTS))
    return ProcessedNoise(SHAPED, 0.8, drawn_prompts(), seeds) if shaped else GumbelNoise(seeds, 1.0)


def run(asked: Asked, shaped: bool, folder: Path | None, limit: int | None = None) -> dict[int, list[int]]:
    """All completions in the order in which they were finished; Killed at forward pass `limit`."""
    noise = noise_of(shaped)
    kept = None if folder is None else KeptState(folder, "sampling", noise)
    asked.count, asked.limit = 0, limit
    return dict(decode(asked.model, drawn_prompts(), noise, lambda ids: ids[-1] == STOP, LONGEST, 9, kept))


@pytest.fixture
def models(tiny_gemma: Callable[..., Any]) -> Iterator[dict[str, Asked]]:
    """With a window that answers cross, and without one."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.15}
    plain = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval()
    return {"gemma": Asked(tiny_gemma(initializer_range=0.15, sliding_window=8)), "llama": Asked(plain)}


@pytest.mark.parametrize("shaped", [False, True])
@pytest.mark.parametrize("name", ["gemma", "llama"])
def test_a_killed_sampling_goes_on_where_it_was(
    models: dict[str, Asked], name: str, shaped: bool, tmp_path: Path
) -> None:
    asked = models[name]
    expected = run(asked, shaped, None)
    whole = asked.count
    assert whole > 30 and len({len(tokens) for tokens in expected.values()}) > 5
    for limit in (1, 7, whole - 1):
        with pytest.raises(Killed):
            run(asked, shaped, tmp_path / str(limit), limit)
        found = run(asked, shaped, tmp_path / str(limit))
        assert list(found.items()) == list(expected.items())
        assert asked.count <= whole - limit + 2  # a step with new prompts has two passes, and its state follows both
    assert list(run(asked, shaped, tmp_path / "7").items()) == list(expected.items())
    assert asked.count == 0  # it was complete


def test_a_complete_sampling_is_kept_however_short_it_was(
    models: dict[str, Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that is killed while it samples its run's next policy does not sample this one again."""
    monkeypatch.undo()  # the first state under way would be due after 5 s
    asked = models["llama"]
    expected = run(asked, False, tmp_path)
    assert asked.count > 30
    assert list(run(asked, False, tmp_path).items()) == list(expected.items()) and asked.count == 0


def test_many_kills_and_a_state_to_the_last_bit(models: dict[str, Asked], tmp_path: Path) -> None:
    """Logits after a resume are those without: the noise added to them is compared bit by bit."""
    asked = models["gemma"]
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}

    class Watched(GumbelNoise):
        killed = False

        def __call__(self, scores: torch.Tensor, rows: list[int]) -> torch.Tensor:
            seen[self.killed].append(scores.clone())
            return super().__call__(scores, rows)

    def once(folder: Path | None, limit: int | None) -> None:
        noise = Watched(list(range(PROMPTS)), 1.0)
        noise.killed = folder is not None
        asked.count, asked.limit = 0, limit
        kept = None if folder is None else KeptState(folder, "sampling", noise)
        list(decode(asked.model, drawn_prompts(), noise, lambda ids: ids[-1] == STOP, LONGEST, 9, kept))

    once(None, None)
    for _ in range(8):
        seen[True].clear()
        with pytest.raises(Killed):
            once(tmp_path, 5)
    seen[True].clear()
    once(tmp_path, None)
    rest = seen[True]
    assert 4 < len(rest) < len(seen[False]) - 20
    assert all(torch.equal(one, other) for one, other in zip(rest, seen[False][-len(rest) :], strict=True))


def test_a_damaged_state_is_named_and_not_gone_on_from(
    models: dict[str, Asked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = models["llama"]
    expected = run(asked, False, None)
    whole = asked.count
    with pytest.raises(Killed):
        run(asked, False, tmp_path, 20)
    [file] = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert run(asked, False, tmp_path) == expected
    assert asked.count == whole
    assert "is damaged" in capsys.readouterr().err


def test_of_two_states_the_newer_one_is_gone_on_from(tmp_path: Path) -> None:
    """A kill after one was written, and before the one from before was removed, leaves both."""
    kept = KeptState(tmp_path, "sampling", GumbelNoise([0], 1.0))
    kept.save(lambda: {"done": torch.tensor([1])})
    [first] = tmp_path.iterdir()
    content = first.read_bytes()
    kept.save(lambda: {"done": torch.tensor([1, 2])})
    [second] = tmp_path.iterdir()
    first.write_bytes(content)
    for older, newer, done in ((first, second, [1, 2]), (second, first, [1])):
        os.utime(older, (1000, 1000))
        os.utime(newer, (2000, 2000))
        found = kept.load()
        assert found is not None and found["done"].tolist() == done


@pytest.mark.parametrize(("share", "processes"), [(1e-12, "1"), (kept_state.OF_FREE, f"{10**12}")])
def test_states_that_would_fill_the_disk_are_not_kept(
    models: dict[str, Asked],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    share: float,
    processes: str,
) -> None:
    monkeypatch.setattr(kept_state, "OF_FREE", share)
    monkeypatch.setenv("WORLD_SIZE", processes)
    with pytest.raises(Killed):
        run(models["llama"], False, tmp_path, 20)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err.count("too little to keep a state") == 1


def test_writing_takes_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    clock = [0.0]
    monkeypatch.setattr(kept_state.time, "monotonic", lambda: clock[0])
    kept = KeptState(tmp_path, "sampling", GumbelNoise([0], 1.0))
    due = []
    for second in range(1, 2001):
        clock[0] = float(second)
        if kept.is_due(size=int(1e9)):  # 2 s by the rate that is assumed
            due.append(second)
            kept._last = clock[0] = clock[0] + 4.0  # it took 4 s
            kept._cost_s = 4.0
    assert due[0] == 100 and due[1] == due[0] + 204
