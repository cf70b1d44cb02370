"""The KL estimators against a model whose answers can be enumerated, and stage kl against plain formulas."""

import itertools
import json
import math
import random
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from untracked import run_untracked

from epsilon_dpo.analysis.intervals.rates import skewed_mean
from epsilon_dpo.analysis.kl.estimators import CHOSEN, ESTIMATORS, POLICY, REFERENCE, Sums, estimators_of, summary
from epsilon_dpo.analysis.kl.params import KL
from epsilon_dpo.analysis.kl.records import answer_sums, kl_records, kl_run
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.journal import Journal
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.pipeline.stage.runs import FINAL, readable
from epsilon_dpo.sampling.answers.params import Sample
from epsilon_dpo.sampling.answers.sampling import answer
from epsilon_dpo.training.alignment.alignment import align
from epsilon_dpo.training.alignment.params import Align

pytestmark = pytest.mark.numeric

ROOT = Path(__file__).resolve().parent.parent.parent.parent
PARAMS = read_yaml(ROOT / "params.yaml")
VOCABULARY = ["<pad>", "<bos>", "<end>", "w0", "w1", "w2"]
STOP = VOCABULARY.index("<end>")
LENGTH = 3  # tokens of an answer at most: many are cut
TEMPLATE = "<bos>{% for m in messages %} {{ m['content'] }}{% endfor %}"
PROMPTS = [list(tokens) for tokens in itertools.product(VOCABULARY[3:], repeat=6)]
DRAWN, EACH = 500, 2  # prompts, and answers to each
Row = dict[str, Any]


class Exact(NamedTuple):
    """What an estimator's values are on all prompts and all answers: [prompts, answers]."""

    probability: Tensor  # of the answer, given the prompt, under whoever wrote it
    values: dict[str, Tensor]  # by estimator
    cut: Tensor  # [answers]

    def mean(self, name: str) -> float:
        return (self.probability * self.values[name]).sum(1).mean().item()

    def standard_error(self, name: str, each: int) -> float:
        """Of the mean of DRAWN prompts, drawn one by one from all, with `each` answers to a prompt."""
        of_prompt = (self.probability * self.values[name]).sum(1)
        within = (self.probability * (self.values[name] - of_prompt[:, None]).square()).sum(1).mean()
        return math.sqrt((of_prompt.var(correction=0).item() + within.item() / each) / DRAWN)

    @property
    def cut_share(self) -> float:
        return self.probability[:, self.cut].sum(1).mean().item()


@pytest.fixture
def folders(tiny_gemma: Callable[..., Any], tmp_path: Path) -> tuple[Path, Path]:
    """Policy and reference: a vocabulary of 6 tokens, soft-caps on, far from each other."""
    model = Tokenizer(WordLevel({token: n for n, token in enumerate(VOCABULARY)}, unk_token="w0"))
    model.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<end>", "unk_token": "w0"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, chat_template=TEMPLATE, **special)
    for seed, name in ((1, "policy"), (2, "reference")):
        tiny_gemma(seed, vocab_size=len(VOCABULARY)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return tmp_path / "policy", tmp_path / "reference"


def next_words(folder: Path) -> Tensor:
    """log-probs of the next token after every prompt and every beginning of an answer that goes on.

    [prompts, a, b, place, token]: after the prompt (place 0), then token a (1), then tokens a and b (2).
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    prompts = torch.tensor([[VOCABULARY.index(token) for token in ["<bos>", *prompt]] for prompt in PROMPTS])
    begun = torch.cartesian_prod(torch.arange(len(VOCABULARY)), torch.arange(len(VOCABULARY)))
    ids = torch.cat([prompts.repeat_interleave(len(begun), 0), begun.repeat(len(prompts), 1)], 1)
    with torch.no_grad():
        logits = torch.cat([model(rows, logits_to_keep=LENGTH).logits for rows in ids.split(1000)])
    return logits.log_softmax(-1).view(len(PROMPTS), len(VOCABULARY), len(VOCABULARY), LENGTH, len(VOCABULARY))


def enumerated(policy: Path, reference: Path) -> dict[str, Exact]:
    """By set of answers. The KLs follow their definition, answer by answer, in float64."""
    pi, ref = next_words(policy), next_words(reference)
    by_word = {
        "kl_fwd_rb": (ref.exp() * (ref - pi)).sum(-1),
        "kl_rev_rb": (pi.exp() * (pi - ref)).sum(-1),
    }  # [prompts, a, b, place]
    log_pi, log_ref, cut = [], [], []
    sums: dict[str, list[Tensor]] = {name: [] for name in by_word}
    for length in range(1, LENGTH + 1):
        for tokens in itertools.product(range(len(VOCABULARY)), repeat=length):
            if STOP in tokens[:-1] or (tokens[-1] != STOP and length < LENGTH):
                continue
            a, b = (*tokens, 0, 0)[:2]
            places = torch.arange(length)
            log_pi.append(pi[:, a, b, places, list(tokens)].sum(1))
            log_ref.append(ref[:, a, b, places, list(tokens)].sum(1))
            cut.append(tokens[-1] != STOP)
            for name, found in sums.items():
                found.append(by_word[name][:, a, b, :length].sum(1))
    p, q = torch.stack(log_pi, 1), torch.stack(log_ref, 1)
    rb = {name: torch.stack(found, 1) for name, found in sums.items()}
    return {
        REFERENCE: Exact(q.exp(), {"kl_fwd_rb": rb["kl_fwd_rb"], "kl_fwd_mc": q - p}, torch.tensor(cut)),
        POLICY: Exact(p.exp(), {"kl_rev_rb": rb["kl_rev_rb"], "kl_rev_mc": p - q}, torch.tensor(cut)),
        CHOSEN: Exact(q.exp(), {"kl_fwd_data": q - p}, torch.tensor(cut)),
    }


def drawn(folder: Path, seed: int, each: int) -> list[Row]:
    """`each` answers to each of DRAWN random prompts, by the project's own sampler."""
    rng = random.Random(seed)
    rows = []
    for n in range(DRAWN):
        prompt = [{"role": "user", "content": " ".join(rng.choice(PROMPTS))}]
        chosen = [{"role": "assistant", "content": "w0"}]
        rows += [{"id": f"draw/{n}/{k}", "prompt": prompt, "chosen": chosen} for k in range(each)]
    settings = Sample(**PARAMS["sample"] | {"temperature": 1.0, "max_new_tokens": LENGTH, "batch_size": 500})
    found = answer(folder, rows, settings, seed, 1, "reference")
    return [{**row, "prompt_id": f"draw/{place // each}"} for place, row in enumerate(found)]


def test_all_estimators_agree_with_exact_enumeration_within_their_stated_error(folders: tuple[Path, Path]) -> None:
    """Prompts drawn from all 729, answers drawn from the model; the chosen answers are the reference's, too.

    The stated errors themselves are compared with those that the enumeration gives.
    """
    policy, reference = folders
    exact = enumerated(policy, reference)
    pairs = [
        {
            "id": row["id"],
            "prompt_id": row["prompt_id"],
            "prompt_ids": [1, *map(VOCABULARY.index, row["prompt"][0]["content"].split())],
            "chosen_ids": row["response_ids"],
        }
        for row in drawn(reference, 23, 1)
    ]
    records = kl_records(
        policy, reference, drawn(reference, 21, EACH), drawn(policy, 22, EACH), pairs, KL(**PARAMS["kl"])
    )
    found = summary(records, 0.95)
    for estimator in ESTIMATORS:
        name, truth, each = estimator.name, exact[estimator.answers], 1 if estimator.answers == CHOSEN else EACH
        assert truth.probability.sum(1).numpy() == pytest.approx(1.0)
        assert abs(found[name] - truth.mean(name)) < 4 * found[f"{name}_se"], name
        assert found[f"{name}_se"] == pytest.approx(truth.standard_error(name, each), rel=0.15), name
        assert 0.3 < found[name] < 30  # far from zero: an estimator of nothing would not pass
        assert (found[f"{name}_n"], found[f"{name}_prompts"]) == (DRAWN * each, DRAWN)
        share = truth.cut_share
        assert found[f"{name}_truncated_share"] == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / DRAWN))
    forward, reverse = exact[REFERENCE].mean("kl_fwd_mc"), exact[POLICY].mean("kl_rev_mc")
    assert exact[REFERENCE].mean("kl_fwd_rb") == pytest.approx(forward)  # both are the KL, by its definition
    assert exact[POLICY].mean("kl_rev_rb") == pytest.approx(reverse)
    assert abs(forward - reverse) > 4 * (found["kl_fwd_rb_se"] + found["kl_rev_rb_se"])  # and the two are not the same
    for rb, mc in (("kl_fwd_rb", "kl_fwd_mc"), ("kl_rev_rb", "kl_rev_mc")):
        assert found[f"{rb}_se"] < found[f"{mc}_se"]
        assert min(row[rb] for row in records if rb in row) >= 0.0 > min(row[mc] for row in records if mc in row)


def naive(policy: Any, reference: Any, prompt: list[int], tokens: list[int]) -> Sums:
    """Of one answer, from the models' own logits in float64, no batch."""
    both = []
    for model in (policy, reference):
        with torch.no_grad():
            logits = model.double()(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        both.append(logits.log_softmax(-1))
    pi, ref = both
    sums = (pi.gather(1, torch.tensor(tokens)[:, None]), ref.gather(1, torch.tensor(tokens)[:, None]))
    return Sums(*(x.sum().item() for x in (*sums, ref.exp() * (ref - pi), pi.exp() * (pi - ref))))


def by_definition(
    policy: Path, reference: Path, reference_samples: list[Row], policy_samples: list[Row], pairs: list[Row]
) -> dict[str, float]:
    """The five estimates, by `naive`, of model folders and of rows as stage kl reads them."""
    load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()  # noqa: E731
    models = load(policy), load(reference)

    def sums(rows: list[Row], field: str) -> list[Sums]:
        return [naive(*models, row["prompt_ids"], row[field]) for row in rows]

    forward, reverse = sums(reference_samples, "response_ids"), sums(policy_samples, "response_ids")
    values = {
        "kl_fwd_rb": [x.kl_ref_policy for x in forward],
        "kl_fwd_mc": [x.reference - x.policy for x in forward],
        "kl_fwd_data": [x.reference - x.policy for x in sums(pairs, "chosen_ids")],
        "kl_rev_rb": [x.kl_policy_ref for x in reverse],
        "kl_rev_mc": [x.policy - x.reference for x in reverse],
    }
    return {name: sum(found) / len(found) for name, found in values.items()}


def test_sums_equal_float64_over_the_full_vocabulary(tiny_gemma: Callable[..., Any]) -> None:
    answers = [([1, 3, 4], [5, 2]), ([1, 4], [3, 3, 4, 5, 1, 2]), ([1, 3, 3, 3, 5], [2]), ([1], [4, 4, 4])]
    policy, reference = tiny_gemma(1, vocab_size=6), tiny_gemma(2, vocab_size=6)
    wanted = [naive(policy, reference, *one) for one in answers]
    policy, reference = policy.float(), reference.float()
    for batch_size, token_chunk in ((1, 100), (3, 2), (4, 5)):
        for found, exact in zip(answer_sums(policy, reference, answers, batch_size, token_chunk), wanted, strict=True):
            assert found == pytest.approx(exact, rel=1e-4)


def test_a_policy_is_at_no_distance_from_itself(folders: tuple[Path, Path]) -> None:
    prompt = [{"role": "user", "content": "w1 w2"}]
    rows = [{"id": str(n), "prompt": prompt, "prompt_ids": [1, 4, 5], "response_ids": [3 + n, 2]} for n in range(2)]
    pairs = [{"id": str(n), "prompt_ids": [1, 3 + n], "chosen_ids": [4, 5]} for n in range(2)]
    records = kl_records(folders[1], folders[1], rows, rows, pairs, KL(**PARAMS["kl"]))
    assert {row.get(estimator.name, 0.0) for row in records for estimator in ESTIMATORS} == {0.0}


def test_each_policy_of_a_run_is_measured_on_its_own_answers(
    folders: tuple[Path, Path], tiny_gemma: Callable[..., Any], tmp_path: Path
) -> None:
    """A snapshot and the final policy, under one journal, against a reference that is stored in bfloat16; each answer
    is a batch of its own."""
    _, reference = folders
    tiny_gemma(2, vocab_size=len(VOCABULARY)).bfloat16().save_pretrained(reference)
    aligned, sampled, out = (tmp_path / name for name in ("align", "sample", "kl"))
    out.mkdir()

    def rows(field: str, *answers: list[int]) -> list[Row]:
        return [{"id": str(n), "prompt_ids": [1, 3 + n], field: ids} for n, ids in enumerate(answers)]

    own, pairs = rows("response_ids", [4, 3, 2], [5, 5, 4]), rows("chosen_ids", [4, 2], [3, 3])
    write_jsonl(tmp_path / "reference.jsonl", own)
    write_jsonl(tmp_path / "eval.jsonl", pairs)
    answers_of = {
        "snapshots/2": rows("response_ids", [3, 5, 2], [4, 4, 3]),
        FINAL: rows("response_ids", [5, 2], [3, 4, 5]),
    }
    for seed, (place, answers) in enumerate(answers_of.items(), start=5):
        tiny_gemma(seed, vocab_size=len(VOCABULARY)).save_pretrained(aligned / place / "model")
        (sampled / place).mkdir(parents=True, exist_ok=True)
        write_jsonl(sampled / place / "samples.jsonl", answers)
        facts = {"temperature": 1.0, "policy_sha256": digest(aligned / place / "model")}
        write_json(sampled / place / "metrics.json", facts)
    of_data = (reference, tmp_path / "reference.jsonl", tmp_path / "eval.jsonl")
    journal = Journal(tmp_path / "scratch")
    final, _ = kl_run(aligned, sampled, *of_data, KL(**PARAMS["kl"] | {"batch_size": 1}), 0.95, out, journal)
    journal.close()
    for place, answers in answers_of.items():
        metrics = read_json(out / place / "metrics.json")
        wanted = by_definition(aligned / place / "model", reference, own, answers, pairs)
        for name, value in wanted.items():
            assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-4), (place, name)
    assert final["kl_rev_rb"] == metrics["kl_rev_rb"]  # the last place is the final one


def test_records_say_whose_answers_they_are_of_and_which_share_a_prompt(folders: tuple[Path, Path]) -> None:
    def sampled(id_: str, text: str, *ids: int, **more: str) -> Row:
        return {"id": id_, "prompt_ids": [1, VOCABULARY.index(text)], "response_ids": list(ids), **more}

    ours = [sampled("a", "w0", 3, 2), sampled("b", "w1", 4, 5, 3), sampled("c", "w0", 2)]
    theirs = [sampled("x/0", "w0", 3, 2, prompt_id="x"), sampled("x/1", "w0", 4, prompt_id="x")]
    # A further stop token or string ends an answer, too; what was cut may end with the stop token of the template.
    theirs += [sampled("y/0", "w0", 4, finish_reason="stop"), sampled("y/1", "w0", 3, 2, finish_reason="length")]
    pairs = [{"id": "p", "prompt_ids": [1, 3], "chosen_ids": [4, 2]}, {"id": "q", "prompt_ids": [1], "chosen_ids": [4]}]
    found = kl_records(*folders, ours, theirs, pairs, KL(**PARAMS["kl"]))
    keys = ("answers", "id", "prompt_id", "tokens", "truncated")
    assert [tuple(row[key] for key in keys) for row in found] == [
        (REFERENCE, "a", "a", 2, False),
        (REFERENCE, "b", "b", 3, True),
        (REFERENCE, "c", "a", 1, False),
        (POLICY, "x/0", "x", 2, False),
        (POLICY, "x/1", "x", 1, True),
        (POLICY, "y/0", "y/0", 1, False),
        (POLICY, "y/1", "y/0", 2, True),
        (CHOSEN, "p", "p", 2, False),
        (CHOSEN, "q", "q", 1, True),
    ]
    names = {REFERENCE: {"kl_fwd_rb", "kl_fwd_mc"}, POLICY: {"kl_rev_rb", "kl_rev_mc"}, CHOSEN: {"kl_fwd_data"}}
    assert all(set(row) == {*keys} | names[row["answers"]] for row in found)


def records(*config: tuple[str, float], **others: list[float]) -> list[Row]:
    """Per set one record for each (prompt, value of all its estimators); `others` replace those of one estimator."""
    rows: list[Row] = []
    for whose in (REFERENCE, POLICY, CHOSEN):
        for place, (prompt, value) in enumerate(config):
            found = {one.name: others.get(one.name, {place: value})[place] for one in estimators_of(whose)}
            rows.append({"answers": whose, "prompt_id": prompt, "truncated": place == 0, **found})
    return rows


def test_summary_by_hand_where_answers_to_one_prompt_count_once() -> None:
    """1 and 3, 2, 6 for three prompts, mean 3: the prompts are -2, -1 and 3 apart; se² = 3/2 (4 + 1 + 9) / 4²."""
    found = summary(records(("a", 1.0), ("b", 2.0), ("a", 3.0), ("c", 6.0)), 0.95)
    error = math.sqrt(21) / 4
    for name in ("kl_fwd_rb", "kl_fwd_mc", "kl_fwd_data", "kl_rev_rb", "kl_rev_mc"):
        assert found[name] == 3.0 and found[f"{name}_se"] == pytest.approx(error)
        ends = [found[f"{name}_low"], found[f"{name}_high"]]
        skewed = skewed_mean([1.5, 2.25, 5.25], 0.95)  # 3 + 3/4 of how far apart the prompts are
        t = [3.0 - 4.302653 * error, 3.0 + 4.302653 * error]  # of 2 degrees of freedom
        assert ends == pytest.approx([skewed.low, skewed.high] if name.endswith("_rb") else t), name
        assert (found[f"{name}_n"], found[f"{name}_prompts"], found[f"{name}_truncated_share"]) == (4, 3, 0.25)
    assert len(found) == 7 * len(ESTIMATORS)
    alone = summary(records(("a", 1.0), ("b", 2.0), ("c", 3.0)), 0.95)
    assert alone["kl_fwd_rb_se"] == pytest.approx(3**-0.5)  # s / sqrt(n)


@pytest.mark.parametrize("name", ["kl_fwd_rb", "kl_rev_rb"])
def test_a_negative_mean_over_the_vocabulary_is_a_bug_and_rounding_is_none(name: str) -> None:
    config = (("a", 1.0), ("b", 2.0))
    with pytest.raises(RuntimeError, match=f"{name}, a mean full-vocabulary KL, is -0.05"):
        summary(records(*config, **{name: [-0.2, 0.1]}), 0.95)
    assert summary(records(*config, **{name: [-1e-6, 0.0]}), 0.95)[name] < 0.0
    for may_be_negative in ("kl_fwd_mc", "kl_fwd_data", "kl_rev_mc"):
        assert summary(records(*config, **{may_be_negative: [-0.2, 0.1]}), 0.95)[may_be_negative] < 0.0


@pytest.mark.parametrize("name", [estimator.name for estimator in ESTIMATORS])
def test_a_diverged_policy_is_one_sentence(name: str) -> None:
    for broken in (math.nan, math.inf):
        with pytest.raises(UserError, match=r"not finite on the .*: its training diverged; lower its learning_rate"):
            summary(records(("a", 1.0), ("b", 2.0), **{name: [1.0, broken]}), 0.95)


def test_one_prompt_has_no_error_to_state() -> None:
    with pytest.raises(UserError, match=r"kl_fwd_rb needs the reference's own answers.* to two prompts at least"):
        summary(records(("a", 1.0), ("a", 2.0)), 0.95)


class Recorder:
    """In the place of the MLflow run."""

    on_the_row: dict[str, float]

    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None: ...

    def set_tags(self, tags: dict[str, str]) -> None: ...

    def log_to_policy(self, policy_sha256: str, metrics: dict[str, float]) -> None:
        Recorder.on_the_row = metrics


@pytest.fixture
def project(
    sft_folder: Callable[..., Path],
    token_pairs: Callable[[int], list[Row]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """What stage kl@tr reads, made by a short TR-DPO whose reference becomes the policy at its last step."""
    for name in ("src", "stages", "dvc.yaml", "pins.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    entry = {"method": "tr_dpo", "beta": 0.3, "update": "hard", "sync_steps": 3}
    (tmp_path / "params.yaml").write_text(
        json.dumps({"threads": 1, "confidence": 0.95, "kl": PARAMS["kl"], "runs": {"tr": entry}})
    )
    out = tmp_path / "out"
    for folder in ("base/model", "sft", "pairs", "reference", "align/tr", "sample/tr"):
        (out / folder).mkdir(parents=True)
    sft_folder().rename(out / "sft" / "model")
    write_jsonl(out / "pairs" / "train.jsonl", token_pairs(12))
    write_jsonl(out / "pairs" / "eval.jsonl", token_pairs(16)[12:])
    few = {"max_steps": 3, "batch_size": 4, "micro_batch_size": 4, "learning_rate": 1e-2}
    align(
        method_of("tr", entry),
        Align(**PARAMS["align"] | few),
        *(5, out / "sft" / "model", out / "pairs", out / "align" / "tr", tmp_path / "scratch"),
        track=lambda metrics, step: None,
        save_steps=3,
    )
    prompts = [
        {"id": f"eval/{n}", "prompt": [{"role": "user", "content": f"w{n} w9"}], "prompt_ids": [n + 3, 12]}
        for n in range(4)
    ]
    for folder, policy, shift in (("reference", "sft", 0), ("sample/tr", "align/tr", 7)):
        rows = [{**row, "response_ids": [20 + n + shift, 31, 2]} for n, row in enumerate(prompts)]
        write_jsonl(out / folder / "samples.jsonl", rows)
        facts = {"temperature": 1.0, "policy_sha256": digest(out / policy / "model")}
        write_json(out / folder / "metrics.json", facts)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    run_untracked(monkeypatch, Recorder)
    # it would outlive the test
    monkeypatch.setattr("epsilon_dpo.pipeline.stage.runtime.set_up", lambda seed, threads: None)
    monkeypatch.setattr(sys, "argv", ["stages.kl", "tr"])
    return tmp_path


def test_the_stage_measures_tr_dpo_against_the_initial_reference(project: Path) -> None:
    out = project / "out"
    logged = read_jsonl(out / "align/tr/metrics.jsonl")
    assert logged[-1]["tr_dpo/syncs"] == 1  # it would be at no distance from itself
    runpy.run_module("stages.kl", run_name="__main__")
    rows = [read_jsonl(out / name) for name in ("reference/samples.jsonl", "sample/tr/samples.jsonl")]
    pairs = read_jsonl(out / "pairs" / "eval.jsonl")
    wanted = by_definition(out / "align/tr/model", out / "sft/model", *rows, pairs)
    metrics = read_json(out / "kl/tr/metrics.json")
    for name, value in wanted.items():
        assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert metrics["kl_fwd_rb"] > 1e-3 and metrics["kl_rev_rb"] > 1e-3
    assert metrics["policy_sha256"] == digest(out / "align/tr/model") and metrics["sample_temperature"] == 1.0
    on_the_row = ("kl_fwd_rb", "kl_fwd_rb_se", "kl_fwd_mc", "kl_fwd_data", "kl_rev_rb")
    assert Recorder.on_the_row == {name: metrics[name] for name in on_the_row}
    described = read_json(out / "kl/tr/estimators.json")
    assert set(described["estimators"]) == set(wanted) and "caution" not in described
    assert "sampled_under" not in metrics
    assert len(read_jsonl(out / "kl/tr/records.jsonl")) == 12


def test_answers_of_another_policy_are_refused(project: Path) -> None:
    write_json(project / "out/sample/tr/metrics.json", {"temperature": 1.0, "policy_sha256": "0" * 64})
    with pytest.raises(SystemExit) as end:
        runpy.run_module("stages.kl", run_name="__main__")
    assert end.value.code == (
        "ERROR in stage kl@tr: out/sample/tr holds the answers of another policy than out/align/tr/model; "
        "run `dvc repro`."
    )


def test_answers_under_top_p_are_called_no_kl(project: Path) -> None:
    """Where they are stored, printed and tracked; what is not sampled stays a distance."""
    sampled = project / "out/sample/tr/metrics.json"
    write_json(sampled, read_json(sampled) | {"temperature": 0.7, "logits": {"top_p": 0.95}})
    runpy.run_module("stages.kl", run_name="__main__")
    assert read_json(project / "out/kl/tr/metrics.json")["sampled_under"] == "temperature 0.7, top_p 0.95"
    caution = read_json(project / "out/kl/tr/estimators.json")["caution"]
    assert caution.startswith("Under temperature 0.7, top_p 0.95: not the policies' KL.")
    assert "kl_fwd_rb, kl_fwd_mc, kl_rev_rb, kl_rev_mc estimate no KL; kl_fwd_data alone" in caution
    assert set(Recorder.on_the_row) == {"kl_fwd_data"}


def test_what_stays_readable_under_other_probabilities_are_the_estimates_on_chosen_answers() -> None:
    names = {estimator.name: estimator.answers for estimator in ESTIMATORS}
    assert list(readable(dict.fromkeys([*names, "win_rate"], 1.0), "top_p 0.9")) == [
        *(name for name, answers in names.items() if answers == CHOSEN),
        "win_rate",
    ]
    assert list(readable(dict.fromkeys(names, 1.0), "")) == list(names)
