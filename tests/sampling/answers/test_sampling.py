import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GenerationConfig, MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.sampling.answers.drawing import sample, seed_of
from epsilon_dpo.sampling.answers.params import Sample
from epsilon_dpo.sampling.answers.sample_answers import sample_policy, sample_run
from epsilon_dpo.sampling.answers.sampling import answer, select, summary
from epsilon_dpo.sampling.decoding.noise import GumbelNoise

TEMPLATE = (
    "<bos>{% for m in messages %} {{ m['role'] }} {{ m['content'] }} <end>{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)

NEUTRAL: dict[str, Any] = {"top_p": 1.0, "top_k": None, "min_p": None, "repetition_penalty": 1.0}


def params(**changes: Any) -> Sample:
    settings = {"turns": "single", "max_prompts": None, "samples_per_prompt": 1, "temperature": 1.0}
    settings |= {"max_new_tokens": 8, "batch_size": 64, "backend": "transformers"}
    settings |= {"logits": NEUTRAL, "stop": {"tokens": [], "strings": []}}
    return Sample(**{**settings, **changes})


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = ["<pad>", "<bos>", "<end>", "user", "assistant", *(f"w{n}" for n in range(59))]
    model = Tokenizer(WordLevel({token: n for n, token in enumerate(vocabulary)}, unk_token="w0"))
    model.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<end>", "unk_token": "w0"}
    return PreTrainedTokenizerFast(tokenizer_object=model, chat_template=TEMPLATE, **special)


@pytest.fixture
def policy(tmp_path: Path, tiny_gemma: Callable[..., Any], tokenizer: PreTrainedTokenizerFast) -> Path:
    """A model folder whose generation_config would change every sample if it were used."""
    model = tiny_gemma(initializer_range=0.15)
    model.generation_config = GenerationConfig(do_sample=True, top_k=1, repetition_penalty=5.0, max_new_tokens=1)
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def row(id_: str, *turns: str) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(turns)
    prompt = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    return {"id": id_, "prompt": prompt, "chosen": [{"role": "assistant", "content": f"w{len(turns)}"}]}


def rows(count: int) -> list[dict[str, Any]]:
    rng = random.Random(1)
    return [row(f"eval/{n}", " ".join(f"w{rng.randrange(59)}" for _ in range(rng.randint(1, 9)))) for n in range(count)]


def test_noise_samples_the_softmax_at_the_temperature() -> None:
    """The argmax of 2000 rows, each by its own seed, against softmax(logits / T) by a chi-square test."""
    logits = torch.tensor([1.5, 1.0, 0.0, -0.5, 0.5, -1.0])
    for temperature in (0.5, 1.0, 2.0):
        noise = GumbelNoise([seed_of(0, "policy", str(n)) for n in range(2000)], temperature)
        drawn = noise(logits.repeat(2000, 1), list(range(2000))).argmax(1)
        expected = torch.softmax(logits.double() / temperature, 0) * 2000
        assert expected.min() > 5  # the test's own rule
        assert chisquare(torch.bincount(drawn, minlength=6).numpy(), expected.numpy()).pvalue > 1e-3, temperature


def test_second_draws_do_not_repeat_the_first() -> None:
    noise = GumbelNoise([5, 5, 6], 1.0)
    first, second = (noise(torch.zeros(3, 50), [0, 1, 2]) for _ in range(2))
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    assert not torch.equal(first, second)


def test_generated_tokens_follow_the_model(tiny_gemma: Callable[..., Any], tokenizer: PreTrainedTokenizerFast) -> None:
    """Two tokens of 3000 answers to one prompt against the model's own table."""
    model = tiny_gemma(initializer_range=0.15)
    prompt = [1, 3, 17, 2, 4]
    ids = [str(n) for n in range(3000)]
    settings = params(max_new_tokens=2, batch_size=500, temperature=0.7)
    drawn = sample(model, tokenizer, dict.fromkeys(ids, prompt), {i: seed_of(3, "policy", i) for i in ids}, settings)
    with torch.no_grad():
        first = torch.softmax(model(torch.tensor([prompt])).logits[0, -1].double() / 0.7, 0)
        most = int(first.argmax())
        second = torch.softmax(model(torch.tensor([[*prompt, most]])).logits[0, -1].double() / 0.7, 0)
    assert most != tokenizer.eos_token_id
    after_most = [tokens[1] for tokens in drawn.values() if tokens[0] == most]
    for tokens, expected in (([t[0] for t in drawn.values()], first), (after_most, second)):
        counts = Counter(tokens)
        frequent = [token for token in range(64) if expected[token] * len(tokens) > 5]
        observed = [counts[token] for token in frequent]
        observed.append(len(tokens) - sum(observed))
        wanted = [float(expected[token]) * len(tokens) for token in frequent]
        wanted.append(len(tokens) - sum(wanted))
        assert len(frequent) > 8
        assert chisquare(observed, wanted).pvalue > 1e-3


def test_batch_size_and_order_change_no_sample(policy: Path) -> None:
    questions = rows(70)
    expected = answer(policy, questions, params(), 5, 1, "policy")
    assert [found["row_id"] for found in expected] == [question["id"] for question in questions]
    assert len({tuple(found["response_ids"]) for found in expected}) > 50
    for batch_size in (1, 7):
        assert answer(policy, questions, params(batch_size=batch_size), 5, 1, "policy") == expected
    shuffled = random.Random(0).sample(questions, len(questions))
    by_id = {found["row_id"]: found for found in answer(policy, shuffled, params(), 5, 1, "policy")}
    assert [by_id[question["id"]] for question in questions] == expected


def test_several_samples_of_a_prompt_are_independent_and_extend_one(policy: Path) -> None:
    questions = rows(20)
    one, three = (answer(policy, questions, params(samples_per_prompt=k), 5, 1, "policy") for k in (1, 3))
    assert [x["id"] for x in three] == [f"{q['id']}/{k}" for q in questions for k in range(3)]
    assert three[::3] == one
    different = [len({tuple(x["response_ids"]) for x in three[i : i + 3]}) for i in range(0, 60, 3)]
    assert sum(different) > 50
    assert len({x["prompt_id"] for x in three}) == len({json.dumps(q["prompt"]) for q in questions})


def test_seed_stream_and_id_each_change_the_samples(policy: Path) -> None:
    same_prompt = [row("a", "w1 w2"), row("b", "w1 w2")]
    found = answer(policy, same_prompt, params(), 5, 1, "policy")
    assert found[0]["response_ids"] != found[1]["response_ids"]
    for seed, stream in ((6, "policy"), (5, "reference")):
        other = answer(policy, same_prompt, params(), seed, 1, stream)
        assert [x["response_ids"] for x in other] != [x["response_ids"] for x in found]


def test_each_policy_of_a_run_gives_answers_of_its_own(
    tmp_path: Path, tiny_gemma: Callable[..., Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    """A snapshot and the final policy, of one execution: neither goes on from what was kept of the other."""
    aligned, out, questions = tmp_path / "aligned", tmp_path / "out", rows(12)
    places = ("snapshots/000004", ".")
    for seed, place in enumerate(places):
        tiny_gemma(seed, initializer_range=0.15).save_pretrained(aligned / place / "model")
        tokenizer.save_pretrained(aligned / place / "model")
    out.mkdir()
    metrics = sample_run(aligned, questions, params(), 5, 1, out, tmp_path / "scratch")
    expected = [answer(aligned / place / "model", questions, params(), 5, 1, "policy") for place in places]
    assert expected[0] != expected[1]
    assert [read_jsonl(out / place / "samples.jsonl") for place in places] == expected
    assert metrics == summary(expected[1])
    for place in places:
        assert read_json(out / place / "metrics.json")["policy_sha256"] == digest(aligned / place / "model")


def test_what_shaped_the_answers_is_said_beside_them(policy: Path, tmp_path: Path) -> None:
    """Stage kl reads it there: a KL over answers that were cooled or cut is not the policy's."""
    cut = params(temperature=0.7, logits=NEUTRAL | {"top_p": 0.9})
    shaped: dict[str, tuple[Sample, dict[str, Any]]] = {
        "not": (params(), {"temperature": 1.0}),
        "cut": (cut, {"temperature": 0.7, "logits": {"top_p": 0.9}}),
    }
    for name, (settings, facts) in shaped.items():
        out = tmp_path / name
        out.mkdir()
        metrics = sample_policy(policy, rows(2), settings, 5, 1, "policy", out)
        assert read_json(out / "metrics.json") == {**metrics, **facts, "policy_sha256": digest(policy)}


def test_seeds_are_those_of_every_machine() -> None:
    expected = hashlib.sha256(b'[17, "policy", "eval/3"]').digest()[:8]
    assert seed_of(17, "policy", "eval/3") == int.from_bytes(expected, "big")


def test_an_answer_ends_with_the_stop_token_or_at_the_limit(policy: Path) -> None:
    found = answer(policy, rows(60), params(max_new_tokens=20), 5, 1, "policy")
    reasons = Counter(sample_["finish_reason"] for sample_ in found)
    assert reasons["stop"] > 5 and reasons["length"] > 5
    for one in found:
        assert one["response_ids"].count(2) == (one["finish_reason"] == "stop")
        assert (one["response_ids"][-1] == 2) == (one["finish_reason"] == "stop")
        assert len(one["response_ids"]) == 20 or one["finish_reason"] == "stop"
        assert "<end>" not in one["response"] and one["response"] == one["response"].strip()
        assert one["chosen"] == "w1"
        words = one["prompt"][0]["content"].split()
        assert one["prompt_ids"] == [
            1,
            3,
            *(int(word[1:]) + 5 for word in words),
            2,
            4,
        ]  # the template
    config = summary(found)
    assert config["n"] == 60 and config["truncated_share"] == reasons["length"] / 60
    assert config["mean_tokens"] == sum(len(one["response_ids"]) for one in found) / 60


def test_an_answer_of_the_stop_token_alone_is_empty() -> None:
    said = [("w1", [6, 2], "stop"), ("", [2], "stop"), ("w1 w2 w3", [6, 7, 8], "length"), ("w1", [6, 2], "stop")]
    samples = [{"response": text, "response_ids": ids, "finish_reason": why} for text, ids, why in said]
    assert summary(samples) == {"n": 4, "mean_tokens": 2.0, "truncated_share": 0.25, "empty_share": 0.25}


def test_a_context_that_is_too_short_is_refused(policy: Path) -> None:
    """And no other: 6 tokens of the prompt and 58 of the answer fill the 64 positions."""
    question = [row("a", "w1 w2")]
    with pytest.raises(UserError, match="64 positions of the model; set it to at most 58"):
        answer(policy, question, params(max_new_tokens=59), 5, 1, "policy")
    assert len(answer(policy, question, params(max_new_tokens=58), 5, 1, "policy")) == 1


def test_single_turn_selection() -> None:
    system = {"id": "s", "prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]}
    found = [row("one", "a"), row("two", "a", "b", "c"), system]
    assert [x["id"] for x in select(found, "single", None)] == ["one", "s"]
    assert [x["id"] for x in select(found, "all", None)] == ["one", "two", "s"]
    with pytest.raises(UserError, match=r"prompts 0 fit sample\.turns = single, .* two; set it to all, or fetch other"):
        select(found[1:2], "single", None)
    with pytest.raises(UserError, match=r"prompts 1 fit sample\.turns = all, .* two; fetch other data\.$"):
        select([*found[:1], found[0] | {"id": "again"}], "all", None)


def test_max_prompts_counts_distinct_prompts_and_follows_the_content() -> None:
    found = [row(str(n), f"question {n % 10}") for n in range(30)]
    kept = select(found, "single", 4)
    assert len({x["prompt"][0]["content"] for x in kept}) == 4 and len(kept) == 12
    assert [int(x["id"]) for x in kept] == sorted(int(x["id"]) for x in kept)
    shuffled = select(random.Random(0).sample(found, 30), "single", 4)
    assert {x["id"] for x in shuffled} == {x["id"] for x in kept}
    assert {x["id"] for x in select(found, "single", 3)} < {x["id"] for x in kept}


@pytest.mark.slow
def test_two_processes_give_the_samples_of_one(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_processes: Callable[[str], None]
) -> None:
    """Each draws half of the prompts; a prompt's random numbers are its own. Each goes on from a state of its own."""
    questions, scratch = rows(9), tmp_path / "scratch"
    expected = answer(policy, questions, params(), 5, 1, "policy")
    two_processes("ddp")
    assert answer(policy, questions, params(), 5, 1, "policy", scratch) == expected
    first, _ = sorted(scratch.iterdir())
    assert "-0-of-2" in first.name
    first.unlink()  # as if it had been killed before it wrote one
    weights = policy / "model.safetensors"
    name = digest(policy)
    monkeypatch.setattr("epsilon_dpo.sampling.answers.sampling.digest", lambda _: name)
    save_file({key: torch.zeros_like(x) for key, x in load_file(weights).items()}, weights, {"format": "pt"})
    found = answer(policy, questions, params(), 5, 1, "policy", scratch)
    assert sum(one == other for one, other in zip(found, expected, strict=True)) == 4  # the model was asked for others


@pytest.mark.slow
@pytest.mark.campaign  # test_decoding.py has the refusal, tests/training/test_processes.py what a process refuses
def test_what_a_process_refuses_is_said_in_one_sentence(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, two_processes: Callable[[str], None]
) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1}
    MambaForCausalLM(MambaConfig(**sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    two_processes("ddp")
    with pytest.raises(UserError, match="choose a model with attention alone"):
        answer(tmp_path, rows(2), params(), 5, 1, "policy")


VLLM = """
class SamplingParams:
    def __init__(self, **given):
        vars(self).update(given)


class LLM:
    def __init__(self, model, **given):
        assert given["generation_config"] == "vllm" and given["dtype"] == "float32", given
        assert given["max_num_seqs"] == 64 and given["trust_remote_code"] is False, given
        self.room = given["max_model_len"]

    def generate(self, prompts, wanted):
        from types import SimpleNamespace as Some

        assert {one.max_tokens for one in wanted} == {8}
        assert self.room == 8 + max(len(prompt["prompt_token_ids"]) for prompt in prompts), self.room
        for one in wanted:
            assert one.temperature == TEMPERATURE, vars(one)
            assert 0 <= one.seed < 2**63 and (one.top_p, one.top_k, one.stop_token_ids) == (1.0, 0, [2]), vars(one)
            assert (one.min_p, one.repetition_penalty, one.stop, one.detokenize) == (0.0, 1.0, [], False), vars(one)
        ids = [prompt["prompt_token_ids"][:3] for prompt in prompts]
        return [Some(outputs=[Some(token_ids=tuple(some), finish_reason="stop", stop_reason=2)]) for some in ids]
"""
SHAPED = """
            assert (one.top_p, one.top_k, one.min_p, one.repetition_penalty) == (0.9, 5, 0.0, 1.2), vars(one)
            assert (one.stop_token_ids, one.stop, one.detokenize) == ([2, 12], ["w3 w4"], True), vars(one)
        ended = [((8,), None), ((8, 2), None), ((8,), 12), ((8, 12), 12), ((8, 9), "w3 w4")]
        found = [Some(token_ids=ids, finish_reason="stop", stop_reason=why) for ids, why in ended]
        cut = Some(token_ids=(10, 11), finish_reason="length", stop_reason=None)
        return [Some(outputs=[one]) for one in [*found, cut]]
"""


def test_vllm_is_asked_in_its_own_environment(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is asked and how its answers come back, of something in its place: vLLM itself needs a GPU."""
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as merging, pytest.raises(UserError, match="make vllm"):
        # An adapter of a large model takes minutes and tens of GB: what will be refused is not merged before.
        merging.setattr("epsilon_dpo.sampling.answers.sampling.merged_policy", lambda *_: pytest.fail("it is merged"))
        answer(policy, rows(3), params(backend="vllm"), 5, 1, "policy")
    (tmp_path / ".venv-vllm/bin").mkdir(parents=True)
    (tmp_path / "vllm.py").write_text(VLLM.replace("TEMPERATURE", "1.0"), "utf-8")
    python = tmp_path / ".venv-vllm/bin/python"
    # -B: a vllm.py written anew within a second, and as long, would be taken from __pycache__.
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" -B "$@"\n', "utf-8")
    python.chmod(0o755)
    found = answer(policy, rows(3), params(backend="vllm"), 5, 1, "policy")
    assert all(one["response_ids"][0] == 1 and one["response_ids"][-1] == 2 for one in found)  # <bos>, <end>
    (tmp_path / "vllm.py").write_text(VLLM.replace("TEMPERATURE", "0.0"), "utf-8")  # vLLM's own word for greedy
    assert len(answer(policy, rows(3), params(backend="vllm", temperature=1.0e-9), 5, 1, "policy")) == 3
    with monkeypatch.context() as copy:  # of the project, as a job works in one
        copy.setattr(sys, "prefix", str(tmp_path / ".venv"))
        (tmp_path / "copy").mkdir()
        copy.chdir(tmp_path / "copy")
        assert len(answer(policy, rows(3), params(backend="vllm", temperature=1.0e-9), 5, 1, "policy")) == 3
    lines = VLLM.splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if "assert one.temperature" in line)
    (tmp_path / "vllm.py").write_text("".join(lines[:place]) + SHAPED, "utf-8")
    logits = {"top_p": 0.9, "top_k": 5, "min_p": None, "repetition_penalty": 1.2}
    shaped = params(backend="vllm", logits=logits, stop={"tokens": ["w7"], "strings": ["w3 w4"]})
    found = answer(policy, rows(6), shaped, 5, 1, "policy")
    # Once, whether it is given among the ids or not; an answer that its length cut has none.
    assert [one["response_ids"] for one in found] == [[8, 2], [8, 2], [8, 12], [8, 12], [8, 9], [10, 11]]
    assert [one["response"] for one in found] == ["w3", "w3", "w3", "w3", "", "w5 w6"]
    assert [one["finish_reason"] for one in found] == ["stop"] * 5 + ["length"]
    torn = "(Path(sys.argv[1]) / 'completions.jsonl').write_text('{\"id\": ')"  # it dies as it writes a line
    (tmp_path / "vllm.py").write_text(f"import sys; from pathlib import Path; {torn}; raise SystemExit(3)", "utf-8")
    with pytest.raises(UserError, match="exit status 3 and 0 of 3 answers"):
        answer(policy, rows(3), params(backend="vllm"), 5, 1, "policy")
