"""params.yaml: what a typo, a wrong type or a wrong number is answered with."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from epsilon_dpo.check.params_file import ParamsFile, cautions, load_file
from epsilon_dpo.data.sources.params import FetchView
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage import params as strict
from epsilon_dpo.pipeline.stage.params import load, parse, read_yaml
from epsilon_dpo.training.alignment.params import AlignView

ROOT = Path(__file__).resolve().parent.parent.parent


def with_base(tmp_path: Path, **base: Any) -> Path:
    """params.yaml on a pretrained model."""
    content = read_yaml(ROOT / "params.yaml")
    settings = {"source": "pretrained", "dtype": "float32", "chat_template": "own", "stop_token": "</s>"}
    content["base"] = settings | base
    path = tmp_path / "params.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)
    return path


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"max_position_embeddings": 159}, "tokens.max_length = 160 exceeds the positions of {} = 159"),
        ({"n_positions": 127}, "tokens.max_length = 160 exceeds the positions of {} = 127"),
        ({"text_config": {"max_position_embeddings": 100}}, "exceeds the positions of {} = 100"),
        (
            {
                "max_position_embeddings": 1000,
                "original_max_position_embeddings": 100,
                "rope_scaling": {"type": "longrope", "long_factor": [2.0], "short_factor": [1.0]},
            },
            "exceeds the positions before LongRoPE's change of {} = 100",
        ),
        (
            {
                "max_position_embeddings": 1000,
                "rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 90},
            },
            "exceeds the positions before LongRoPE's change of {} = 90",
        ),
    ],
)
def test_a_pretrained_models_positions_are_held_where_its_config_is_there(
    tmp_path: Path, config: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        load_file(with_base(tmp_path, path=str(tmp_path), revision=None))
    assert sentence.format(tmp_path) in str(error.value) and "lower it, or take a model" in str(error.value)


def test_snapshots_that_no_training_reaches_are_refused(tmp_path: Path) -> None:
    """One at its end would be the policy itself."""
    content = read_yaml(ROOT / "params.yaml")
    assert content["align"]["num_train_epochs"] == 1.0
    file = tmp_path / "params.yaml"
    for epochs, kept in ((5.0, False), (1.0, False), (0.5, True)):
        run = {"method": "dpo", "beta": 0.3, "snapshot_epochs": epochs}
        file.write_text(json.dumps(content | {"runs": {"one": run}}), "utf-8")
        if kept:
            assert load_file(file).runs == {"one": run}
            continue
        with pytest.raises(UserError, match=rf"runs\.one\.snapshot_epochs = {epochs:g} keeps no .* is 1; lower it"):
            load_file(file)


def test_a_method_that_max_steps_leaves_no_time_for_is_doubted() -> None:
    """TR-DPO whose reference moves after the last step is DPO."""
    content = read_yaml(ROOT / "params.yaml")
    steps = content["runs"]["tr_dpo"]["sync_steps"]
    for max_steps, doubted in ((None, 0), (steps + 1, 0), (steps, 1)):
        params = parse(ParamsFile, content | {"align": content["align"] | {"max_steps": max_steps}})
        said = [f"runs.tr_dpo is not yet tr_dpo after align.max_steps = {max_steps} optimizer steps: with this config "]
        assert [line.split("it takes")[0] for line in cautions(params)] == said * doubted


def test_every_block_is_held_by_the_stage_that_knows_it_best() -> None:
    """Of two stages that read a block the one with the narrower type decides."""
    loose = [name for name, field in ParamsFile.model_fields.items() if "typing.Any" in str(field.annotation)]
    assert loose == ["runs"], "a run is held by its method"


@pytest.mark.parametrize("content", ['{"max_position', "[]", '{"text_config": null}'])
def test_a_damaged_config_of_a_pretrained_model_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="is no model's config"):
        load_file(with_base(tmp_path, path=str(tmp_path), revision=None))


def test_a_models_folder_that_may_not_be_looked_into_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's: whether it holds a config.json is not to be known."""
    path = with_base(tmp_path, path=str(tmp_path / "model"), revision=None)
    asked = Path.stat

    def refuse(self: Path, **options: Any) -> Any:
        if self == tmp_path / "model/config.json":
            raise PermissionError(13, "Permission denied", str(self))
        return asked(self, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(
        UserError, match=r"config\.json cannot be read \(Permission denied\); change its permissions, or"
    ):
        load_file(path)


def test_what_is_to_be_sampled_counts_too_and_a_hub_model_by_its_cached_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    path = with_base(tmp_path, path="some/model", revision="a" * 40)
    assert load_file(path), "what is not at hand is held later"
    cached = tmp_path / "hub" / "models--some--model" / "snapshots" / ("a" * 40)
    cached.mkdir(parents=True)
    (cached / "config.json").write_text(json.dumps({"max_position_embeddings": 160}))
    assert load_file(path)
    path.write_text(path.read_text().replace("max_new_tokens: 64", "max_new_tokens: 97"))
    with pytest.raises(UserError, match=r"sample\.max_new_tokens = 161 exceeds the positions of some/model = 160"):
        load_file(path)


@pytest.mark.parametrize("name", ["/data/models/x", "./gemma", "~/gemma", "a..b"])
def test_a_folder_with_a_revision_is_no_model_of_the_hub(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UserError, match=f"{re.escape(repr(name))} is no Hub .* for a local folder set revision to null"
    ):
        load_file(with_base(tmp_path, path=name, revision="a" * 40))


@pytest.mark.parametrize(
    ("sft", "align", "refused"),
    [
        ("lora", "lora", None),
        ("lora", "all", None),  # what is aligned is merged in float32
        ("all", "lora", "sft"),
        (None, "lora", None),
        (None, "all", "align"),
    ],
)
def test_weights_in_bfloat16_are_not_trained_themselves(
    tmp_path: Path, sft: str | None, align: str, refused: str | None
) -> None:
    """AdamW's steps of 7e-7 leave 99 % of such weights where they are."""
    path = with_base(tmp_path, path="some/model", revision="a" * 40, dtype="bfloat16")
    content = read_yaml(path)
    lora = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj"], "quantise": None}
    content["sft"] = None if sft is None else content["sft"] | {"lora": lora if sft == "lora" else None}
    content["align"]["lora"] = lora if align == "lora" else None
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)
    if refused is None:
        assert load_file(path)
        return
    with pytest.raises(UserError, match=rf"base\.dtype: bfloat16 with {refused}\.lora: null .* base\.dtype to float32"):
        load_file(path)


def edited(tmp_path: Path, old: str, new: str) -> Path:
    """params.yaml, its runs but for DPO left out, with one text replaced."""
    blocks, runs = (ROOT / "params.yaml").read_text("utf-8").split("\nruns:\n")
    text = f"{blocks}\nruns:\n  dpo: {{method: dpo, beta: 0.3}}\n"
    assert runs and text.count(old) >= 1, f"{old!r} is not in params.yaml: the test no longer tests anything"
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new, 1), "utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "dpo: {method: dpo, beta: 0.3}",
            "dpo: {method: dpo, betta: 0.3}",
            "unknown key 'runs.dpo.betta'; did you mean 'beta'?",
        ),
        ("dpo: {method: dpo, beta: 0.3}", "dpo: {method: dpo, beta: -0.3}", "runs.dpo.beta = -0.3 is refused"),
        ("dpo: {method: dpo, beta: 0.3}", "dpo: {method: dop, beta: 0.3}", "did you mean 'dpo'?"),
        ("dpo: {method: dpo, beta: 0.3}", "d.po: {method: dpo, beta: 0.3}", "params.yaml: 'd.po' is no name of a run"),
        ("dpo: {method: dpo, beta: 0.3}", f"{'d' * 101}: {{method: dpo, beta: 0.3}}", "is no name of a run"),
        ("dpo: {method: dpo, beta: 0.3}", "sft: {method: dpo, beta: 0.3}", "a run cannot be called sft"),
        ("dpo: {method: dpo, beta: 0.3}", "007: {method: dpo, beta: 0.3}", "runs has the name 7, which is no text in"),
        (
            "dpo: {method: dpo, beta: 0.3}",
            "dpo: {method: dpo, beta: 0.3}\n  again: {method: dpo, beta: 0.3, learning_rate: 1.0e-3}",
            "runs.dpo and runs.again are the same training",
        ),
        (
            "  lora: null",
            "  lora: {r: 8}",
            "'sft.lora.lora_alpha' is missing; add it (docs/howto.md says of each",
        ),
        ("seed: 17", "seed: -1", "seed = -1 is refused"),
        ("threads: 1 ", "threads: 0 ", "threads = 0 is refused"),
        ("threads: 1 ", "threads: true ", "threads = true is refused"),
        (
            "dpo: {method: dpo, beta: 0.3}",
            "one: {method: beta_dpo, beta: 0.3, alpha: 0.6, rho: 0.98, momentum: 0.9}",
            "runs.one needs at least 50 pairs in an optimizer step, but align.batch_size is 32",
        ),
        (
            "  temperature: 1.0",
            "  temprature: 1.0",
            "unknown key 'sample.temprature'; did you mean 'temperature'?",
        ),
        ("  train_pairs:", "  train_pear:", "did you mean 'train_pairs'?"),
        (
            "  source: synthetic",
            "  source: sintetic",
            "fetch.source = 'sintetic' is refused: input should be one of 'synthetic', 'hh', 'dataset'",
        ),
        ("pairs: {source: dataset}", "pairs: {}", "key 'pairs.source' is missing; add it"),
        ("pairs: {source: dataset}", "pairs: null", "pairs = null is refused: input should be a block of keys"),
        ("report: {examples: 6}", "report: 6", "report = 6 is refused: input should be a block of keys"),
        ("dpo: {method: dpo, beta: 0.3}", "dpo:", "runs.dpo = null is refused: input should be a block of keys"),
        ("dpo: {method: dpo, beta: 0.3}", "dpo: {method: dpo, beta: .inf}", "runs.dpo.beta = inf is refused"),
        ("confidence: 0.95", "confidence: 95", "confidence = 95 is refused"),
        ("kl: {", "kl: {confidence: 0.9, ", "unknown key 'kl.confidence'"),
        ("dpo: {method: dpo, beta: 0.3}", "dpo: {metod: dpo, beta: 0.3}", "method"),
        ("runs:", "run:", "unknown key 'run'; did you mean 'runs'?"),
        (
            "seed: 17",
            "seed: 17\n1: 2",
            "params.yaml: there is the key 1, which is no text in YAML and no key here",
        ),
        (
            "  train_pairs:",
            "  null: 2\n  train_pairs:",
            "fetch has the key null, which is no text in YAML and no",
        ),
        ("dpo: {method: dpo, beta: 0.3}", "2024-01-01: {beta: 0.3}", "runs has the name 2024-01-01, which is no text"),
        ("method: dpo,", "method: null,", "runs.dpo.method = null is unknown; Methods: "),
        ("seed: 17", "seed: 2024-01-01", "seed = 2024-01-01 is refused: input should be a valid integer"),
        ("share_prompt: true", "share_prompt: yes", "align.share_prompt = 'yes' is refused: input should be true or f"),
        ("annotators: null", "annotators: []", "annotators = [] is refused: it needs 1 or more entries and has 0"),
        (
            " temperature: 1.0 # at",
            " temperature: 0 # at",
            "sample.temperature = 0 is refused: logits are divided by it; write 1.0e",
        ),
        ("strings: []}", "strings: ['']}", "sample.stop.strings.0 = '' is refused: it must not be empty"),
        ("\n  dpo: {method: dpo, beta: 0.3}", " {}", "runs is refused: it needs 1 or more entries and has 0"),
        ("train_pairs: 3000", "train_pairs: 999", "fetch.train_pairs = 999 is below validate.min_train_pairs = 1000"),
        ("threads: 1", "threads: one", "threads = 'one' is refused"),
        ("learning_rate: 1.0e-2", "learning_rate: '1.0e-2'", "sft.learning_rate = '1.0e-2' is refused"),
        ("max_prompt_length: 64", "max_prompt_length: 640", "max_length must exceed max_prompt_length"),
        (
            "max_length: 160",
            "max_length: 257",
            "params.yaml: tokens.max_length = 257 exceeds base.max_position_embeddings = 256",
        ),
        (
            "max_new_tokens: 64",
            "max_new_tokens: 193",
            "tokens.max_prompt_length + sample.max_new_tokens = 257 exceeds base.max_position_embeddings = 256",
        ),
        ("kl: {", "kll: {", "unknown key 'kll'; did you mean 'kl'?"),
        ("seed: 17", "seed: [", "is not valid YAML"),
        ("seed: 17", f"seed: {'[' * 3000}{']' * 3000}", "params.yaml is nested too deeply"),
        ("seed: 17", f"seed: {'1' * 5000}", "params.yaml holds a value that cannot be read"),
        ("seed: 17", "seed: !!bool 17", "params.yaml holds a value that cannot be read"),
        ("# Every", "%YAML 1.3\n---\n# Every", "params.yaml holds a value that cannot be read"),
        (
            "threads: 1",
            "threads: 1 # \x07",
            "params.yaml has the character '\\x07' in line 6, which YAML does not",
        ),
    ],
)
def test_one_sentence_says_what_is_wrong_and_where(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        load_file(edited(tmp_path, old, new))
    said = str(error.value).replace(f"{tmp_path}/", "")
    assert sentence in said
    assert "\n" not in said
    assert len(said) < 600, "a refusal shows the value that is wrong, not the whole file"


def test_a_key_that_an_older_file_lacks_is_told_with_its_value_where_one_is_neutral() -> None:
    """What is told makes the file valid; of the others a preset is named, also of a learning rate, which differs."""
    content, told = read_yaml(ROOT / "params.yaml"), set()
    for name in content:
        rest = {key: value for key, value in content.items() if key != name}
        with pytest.raises(UserError) as error:
            parse(ParamsFile, rest)
        if "`" not in (said := str(error.value)):
            assert re.fullmatch(rf"params\.yaml: key '{name}' is missing; add it, as in presets/\w+\.yaml\.", said)
        else:
            told.add(name)
            assert parse(ParamsFile, rest | YAML(typ="safe", pure=True).load(said.split("`")[1]))
        if name == "teacher":
            assert said == (
                "params.yaml: key 'teacher' is missing (newer than this file?); add `teacher: null`, as in "
                "presets/adaptive.yaml."
            )
    assert told == {"confidence", "teacher", "candidates", "margins", "scorer"}
    content["align"] = {key: value for key, value in content["align"].items() if key != "learning_rate"}
    with pytest.raises(UserError, match=r"'align\.learning_rate' is missing; add it, as in presets/"):
        parse(ParamsFile, content)


def test_a_missing_keys_value_is_that_of_blocks_of_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of runs by the same method; a preset that cannot be read is a user's own."""
    presets = {"a": "[", "b": "judge: {source: llm, concurrency: 8}", "c": "judge: {source: trained, concurrency: 1}"}
    presets["d"] = "runs: {one: {method: dpo, beta: 0.1}, two: {method: simpo, beta: 2.0}}"
    for name, text in presets.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(strict, "PRESETS", tmp_path)
    content = read_yaml(ROOT / "params.yaml")
    with pytest.raises(
        UserError, match=r"'judge\.concurrency' is missing \(newer .*; add `concurrency: 8`, as in .*b\.y"
    ):
        parse(ParamsFile, content | {"judge": {"source": "llm"}})
    with pytest.raises(UserError, match=r"'runs\.own\.beta' is missing .*; add `beta: 0\.1`, as in .*d\.yaml\."):
        method_of("own", {"method": "dpo"})


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("learning_rate: 1.0e-2", "learning_rate: 1.0e+6", "sft.learning_rate"),
        ("beta: 0.3", "beta: 1.0e+308", "runs.dpo.beta"),
        ("beta: 0.3", "beta: 1.0e-300", "runs.dpo.beta"),
        ("beta: 0.3", "beta: 0.3, learning_rate: 1.0e+3", "runs.dpo.learning_rate"),
        ("beta: 0.3", "beta: 0.3, snapshot_epochs: 1.0e-12", "runs.dpo.snapshot_epochs"),
        ("micro_batch_size: 32", "micro_batch_size: 99999999999999999999", "judge"),
        ("train_pairs: 3000", "train_pairs: 1000000000000", "fetch.train_pairs"),
        ("temperature: 1.0 # at", "temperature: 1.0e-12 # at", "sample.temperature"),
        ("threads: 1 ", "threads: 100000 ", "threads"),
        ("confidence: 0.95", "confidence: 0.9999999999999999", "confidence"),
        ("vocab_size: 768", "vocab_size: 1000000000", "base.vocab_size"),
        ("head_dim: 16", "head_dim: 15", "base"),
        ("num_attention_heads: 4", "num_attention_heads: 3", "base"),
        ("hidden_size: 64", "hidden_size: 62", "base"),
        ("num_train_epochs: 3.0", "num_train_epochs: 1.0e+12", "sft.num_train_epochs"),
        ("position_buckets: 16", "position_buckets: 1", "judge.position_buckets"),
        ("vocab_size: 600", "vocab_size: 4000000000", "judge.vocab_size"),
        ("intermediate_size: 128", "intermediate_size: 4000000000", "judge.intermediate_size"),
        ("source_max_length: 48", "source_max_length: 4000000000", "judge.source_max_length"),
    ],
)
def test_a_value_that_nobody_can_mean_is_refused(tmp_path: Path, old: str, new: str, key: str) -> None:
    """It would cost hours, or end in a traceback after them."""
    with pytest.raises(UserError, match=rf"params\.yaml: {re.escape(key)}\S* (= \S+ )?is refused: "):
        load_file(edited(tmp_path, old, new))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_in_another_encoding_is_said_to_be_that(tmp_path: Path, encoding: str) -> None:
    """DVC reads UTF-8 alone."""
    path = edited(tmp_path, "seed: 17", "seed: 17 # ä")
    path.write_bytes("".join(sign for sign in path.read_text("utf-8") if sign < "\u0100").encode(encoding))
    with pytest.raises(UserError, match=r"params\.yaml is no UTF-8 text \(line [15]\); save it as UTF-8\."):
        load_file(path)


@pytest.mark.parametrize(
    ("preset", "block"), [("ultrafeedback-smollm2", "fetch"), ("ultrafeedback-mistral-7b", "base")]
)
def test_a_branch_is_no_revision(preset: str, block: str) -> None:
    content = read_yaml(ROOT / "presets" / f"{preset}.yaml")
    content[block]["revision"] = "main"
    with pytest.raises(UserError, match=rf"{block}\.revision = 'main' is refused: it must be a commit, 40 hex"):
        parse(ParamsFile, content)


def test_a_key_is_named_as_it_is_written(tmp_path: Path) -> None:
    """pydantic puts `trained`, the value of `source`, between the keys of the block."""
    with pytest.raises(UserError, match=r"params\.yaml: judge\.hidden_size = 0 is refused"):
        load_file(edited(tmp_path, "64\n  intermediate_size: 128", "0\n  intermediate_size: 128"))


def test_an_unknown_key_is_named_also_if_it_is_some_keys_value(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown key 'sft\.cosine'"):
        load_file(edited(tmp_path, "  completion_only_loss: true", "  completion_only_loss: true\n  cosine: 1"))


def test_candidates_fit_the_model_too() -> None:
    content = read_yaml(ROOT / "presets" / "on-policy.yaml")
    content["candidates"]["max_new_tokens"] = 192
    assert parse(ParamsFile, content)
    content["candidates"]["max_new_tokens"] = 193
    with pytest.raises(UserError, match=r"candidates.max_new_tokens = 257 exceeds base.max_position_embeddings = 256"):
        parse(ParamsFile, content)


def test_candidates_are_drawn_for_on_policy_pairs_and_for_nothing_else() -> None:
    """For nobody they would be sampled for hours."""
    content, preset = (read_yaml(ROOT / name) for name in ("params.yaml", "presets/on-policy.yaml"))
    both = {name: preset[name] for name in ("candidates", "pairs")}
    assert parse(ParamsFile, content | both)
    for name, block in both.items():
        with pytest.raises(UserError, match=r"pairs\.source: on_policy needs candidates, and nothing else reads them"):
            parse(ParamsFile, content | {name: block})


MADPO = {"method": "madpo", "beta": 0.3, "tau": 2.0}


@pytest.mark.parametrize("source", ["judge", "true_reward"])
def test_a_method_that_needs_scores_needs_margins(tmp_path: Path, source: str) -> None:
    content = read_yaml(ROOT / "params.yaml") | {"runs": {"one": MADPO}}
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(UserError, match=r"runs\.one of method madpo needs margins; set margins: \{source: judge"):
        load_file(path)
    path.write_text(json.dumps(content | {"margins": {"source": source, "temperature": None}}), "utf-8")
    margins = load_file(path).margins
    assert margins is not None and margins.source == source
    unread = {"margins": {"source": source, "temperature": None}, "runs": {"one": {"method": "dpo", "beta": 0.3}}}
    path.write_text(json.dumps(content | unread), "utf-8")
    with pytest.raises(UserError, match=r"no run reads margins, .* would depend on; set margins: null\.$"):
        load_file(path)


FORWARD = {"method": "dpo", "beta": 0.3, "smoothing": "forward", "flip_by": "annotator"}


def test_a_flip_rate_by_annotator_needs_annotators(tmp_path: Path) -> None:
    content = read_yaml(ROOT / "params.yaml") | {"runs": {"one": FORWARD}}
    noisy = {**content["fetch"], "annotators": [{"share": 1.0, "flip": 0.2}]}
    on_policy = {key: read_yaml(ROOT / "presets" / "on-policy.yaml")[key] for key in ("candidates", "pairs")}
    path = tmp_path / "params.yaml"
    for refused in ({}, {"fetch": {**content["fetch"], "outliers": 0.1}}, {"fetch": noisy, **on_policy}):
        path.write_text(json.dumps(content | refused), "utf-8")
        with pytest.raises(
            UserError, match=r"runs\.one\.flip_by needs pairs whose annotators are known.*label_smoothing"
        ):
            load_file(path)
    path.write_text(json.dumps(content | {"fetch": noisy}), "utf-8")
    assert load_file(path).runs == {"one": FORWARD}


def test_the_truth_of_data_from_people_is_not_known() -> None:
    content = read_yaml(ROOT / "presets" / "hh-local.yaml")
    assert parse(ParamsFile, content | {"margins": {"source": "judge", "temperature": None}})
    with pytest.raises(UserError, match=r"margins\.source: true_reward needs generated data"):
        parse(ParamsFile, content | {"margins": {"source": "true_reward", "temperature": None}})
    with pytest.raises(UserError, match=r"scorer\.source: true_reward needs generated data"):
        parse(ParamsFile, content | {"scorer": {"source": "true_reward"}})


RLOO = {"method": "rloo", "beta": 0.05, "k": 4, "prompts_per_step": 16, "steps": 100, "max_new_tokens": 48}
REWARD_MODEL = {
    **{"source": "reward_model", "path": "some/model", "revision": "0" * 40, "dtype": "float32"},
    **{"max_length": 512, "batch_size": 8},
}
TRUTH, JUDGED = ({"source": source, "clip": None} for source in ("true_reward", "judge"))


def written(tmp_path: Path, **changes: Any) -> Path:
    """The default with one online run, a scorer that it can use, and `changes` of blocks."""
    path = tmp_path / "params.yaml"
    content = read_yaml(ROOT / "params.yaml") | {"runs": {"one": RLOO}, "scorer": TRUTH} | changes
    path.write_text(json.dumps(content), "utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scorer": None}, "runs.one of method rloo learns from scores of its own answers; set scorer: {source: true"),
        ({"runs": {"one": {"method": "dpo", "beta": 0.1}}}, "no run learns from a scorer; set scorer: null, or add"),
        ({"scorer": JUDGED}, "scorer.source: judge needs a judge that gives one answer a number, and judge.source: tr"),
        ({"runs": {"one": RLOO | {"k": 1}}}, "runs.one.k = 1 is refused"),
        (
            {"runs": {"one": RLOO | {"max_new_tokens": 193}}},
            "tokens.max_prompt_length + runs.one.max_new_tokens = 257 exceeds base.max_position_embeddings = 256",
        ),
        (
            {"runs": {"one": RLOO | {"method": "ppo", "k": 1, "minibatches": 3}}},
            "3 minibatches cannot share 16 prompts x 1 answers evenly",
        ),
        ({"judge": REWARD_MODEL | {"path": ""}}, "judge.path = '' is refused: it must not be empty"),
        ({"runs": {"one": RLOO | {"sceps": 3}}}, "unknown key 'runs.one.sceps'; did you mean 'steps'?"),
        ({"runs": {"one": RLOO, "two": RLOO}}, "runs.one and runs.two are the same training"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:40],
)
def test_an_online_run_needs_a_scorer_and_a_scorer_an_online_run(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as error:
        load_file(written(tmp_path, **changes))
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_reward_model_or_the_truth_can_be_the_scorer(tmp_path: Path) -> None:
    assert load_file(written(tmp_path)).scorer.source == "true_reward"
    assert load_file(written(tmp_path, scorer=JUDGED, judge=REWARD_MODEL)).scorer.source == "judge"
    few = read_yaml(ROOT / "params.yaml")["align"] | {"batch_size": 1, "micro_batch_size": 1}
    assert load_file(written(tmp_path, align=few)).runs, "its micro-batch holds answers and not pairs"


def test_a_missing_block_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'kl' is missing"):
        load_file(edited(tmp_path, "kl: {batch_size", "# kl: {batch_size"))


def test_a_missing_file_names_the_presets(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="presets/"):
        load_file(tmp_path / "params.yaml")


def test_the_same_bytes_are_parsed_once_and_a_rewritten_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = []
    monkeypatch.setattr(strict, "YAML", lambda **how: parsed.append(how) or YAML(**how))
    path = tmp_path / "params.yaml"
    path.write_text(f"# {tmp_path}\nseed: 1\nrows: [1]\n", "utf-8")
    read_yaml(path)["rows"].append(2)
    assert read_yaml(path) == {"seed": 1, "rows": [1]} and len(parsed) == 1
    path.write_text(f"# {tmp_path}\nseed: 2\nrows: [1]\n", "utf-8")
    assert read_yaml(path)["seed"] == 2 and len(parsed) == 2


def test_values_are_the_ones_dvc_reads() -> None:
    """DVC and we must agree on every value, or a stage would run on a number that dvc.lock does not show."""
    from dvc.utils.serialize import load_yaml

    theirs: Any = load_yaml(str(ROOT / "params.yaml"))
    ours = load_file(ROOT / "params.yaml").model_dump(by_alias=True)
    assert ours == theirs


def test_every_yaml_reader_reads_the_same() -> None:
    """YAML 1.1 readers take 1e-6 for text: the files write floats so that all readers agree."""
    import yaml

    files = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]
    assert len(files) >= 3
    for file in files:
        assert yaml.safe_load(file.read_text("utf-8")) == read_yaml(file)


def test_a_run_sees_only_its_own_entry(tmp_path: Path) -> None:
    """dvc.yaml has `runs.${key}`: another run's name or number neither stops a training nor comes into its sight."""
    path = edited(tmp_path, "  dpo: {", "  d.po: {method: dop, beta: [wrong]}\n  dpo: {")
    assert load(AlignView, path, run="dpo").runs == {"dpo": {"method": "dpo", "beta": 0.3}}
    with pytest.raises(UserError, match=r"d\.po"):
        load(AlignView, path)
    with pytest.raises(UserError, match="runs"):
        load(AlignView, path, run="tr_dpo")


def test_a_view_sees_only_its_keys(tmp_path: Path) -> None:
    """A typo elsewhere does not stop a stage that does not read it: `check` answers for the whole file."""
    assert load(FetchView, edited(tmp_path, "kl: {batch_size", "kl: {bach_size")).seed == 17


def test_what_learns_preferences_is_refused_where_nobody_compared_the_pairs() -> None:
    """Texts with labels make pairs of a text and another's ending: a coin's preference, of which no page would tell."""
    content = read_yaml(ROOT / "presets" / "control.yaml")
    with pytest.raises(UserError, match=r"reviews are no preferences to train on; set pairs\.source: on_policy"):
        parse(ParamsFile, content | {"candidates": None, "pairs": {"source": "dataset"}, "scorer": None})
    for source, file in (("trained", "params.yaml"), ("trained_reward", "presets/rlhf.yaml")):
        judge = read_yaml(ROOT / file)["judge"]
        assert judge["source"] == source
        with pytest.raises(UserError, match=rf"judge\.source: {source} would learn from them; set it to sentiment"):
            parse(ParamsFile, content | {"judge": judge, "scorer": None})


@pytest.mark.parametrize(
    ("classifier", "fetch", "fits"), [("tfidf", False, False), ("vader", False, True), ("tfidf", True, True)]
)
def test_a_classifier_that_is_trained_needs_texts_with_labels(classifier: str, fetch: bool, fits: bool) -> None:
    content = read_yaml(ROOT / "params.yaml")
    content["judge"] = {"source": "sentiment", "classifier": classifier, "clip": 4.0}
    if fetch:
        content |= {key: read_yaml(ROOT / "presets" / "control.yaml")[key] for key in ("fetch", "candidates", "pairs")}
    if fits:
        assert parse(ParamsFile, content)
        return
    with pytest.raises(UserError, match=r"judge\.classifier: tfidf is trained on texts with labels"):
        parse(ParamsFile, content)


VADER = {"source": "sentiment", "classifier": "vader", "clip": 4.0}


def test_a_teacher_is_another_judge_and_somebody_learns_from_it() -> None:
    content = read_yaml(ROOT / "presets" / "on-policy.yaml")
    assert list(parse(ParamsFile, content | {"judge": VADER, "teacher": content["judge"]}).judges) == [
        "judge",
        "teacher",
    ]
    with pytest.raises(UserError, match=r"teacher is the judge of block judge, which teaches .*; set it to null"):
        parse(ParamsFile, content | {"teacher": content["judge"]})
    default = read_yaml(ROOT / "params.yaml")
    with pytest.raises(UserError, match=r"nothing is learned from a teacher, .* set teacher: null"):
        parse(ParamsFile, default | {"teacher": VADER})
    assert parse(ParamsFile, default | {"teacher": VADER, "scorer": {"source": "judge"}})
    with pytest.raises(
        UserError, match=r"and teacher\.source: trained only compares two; choose one .*reward_model\.$"
    ):
        parse(ParamsFile, default | {"judge": VADER, "teacher": default["judge"], "scorer": {"source": "judge"}})
    with pytest.raises(
        UserError, match=r"judge\.source: trained only compares .*, or a teacher that scores beside judge"
    ):
        parse(ParamsFile, default | {"scorer": {"source": "judge"}})
    with pytest.raises(UserError, match=r"teacher\.classifier: tfidf is trained on texts with labels"):
        parse(ParamsFile, content | {"teacher": VADER | {"classifier": "tfidf"}})


def test_a_margin_in_nats_is_not_fitted_to_pairs_that_nobody_compared() -> None:
    content = read_yaml(ROOT / "presets" / "control.yaml")
    content["margins"] = {"source": "judge", "temperature": None}
    with pytest.raises(UserError, match=r"margins\.temperature: null would be fitted to them; state a number"):
        parse(ParamsFile, content)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_dataset_that_is_cut_to_less_than_the_contract_asks_is_refused(split: str) -> None:
    """Before it is downloaded."""
    content = read_yaml(ROOT / "presets" / "ultrafeedback-smollm2.yaml")
    least = content["validate"][f"min_{split}_pairs"]
    content["fetch"][f"max_{split}_pairs"] = least
    assert parse(ParamsFile, content)
    content["fetch"][f"max_{split}_pairs"] = least - 1
    with pytest.raises(UserError, match=rf"fetch\.max_{split}_pairs = {least - 1} is below validate\.min_{split}"):
        parse(ParamsFile, content)


def test_the_tiny_models_learning_rates_are_doubted_for_a_pretrained_one() -> None:
    """Who replaces block `base` alone would compare runs from a ruined reference; no preset is doubted."""
    default, smollm2 = (read_yaml(ROOT / name) for name in ("params.yaml", "presets/ultrafeedback-smollm2.yaml"))
    mixed = default | {"base": smollm2["base"]}

    def doubted(**changes: Any) -> list[str]:
        return [said.split(" ")[0] for said in cautions(parse(ParamsFile, mixed | changes))]

    assert doubted() == ["sft.learning_rate", "align.learning_rate"]
    run = {"method": "dpo", "beta": 0.1}
    runs = {"fast": run | {"learning_rate": 3.0e-4}, "usual": run | {"learning_rate": 2.0e-5}}
    slow = mixed["align"] | {"learning_rate": 1.0e-6}
    assert doubted(align=slow, runs=runs) == ["sft.learning_rate", "runs.fast.learning_rate"], "a run's own, too"
    lora = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear", "quantise": None}
    assert doubted(align=mixed["align"] | {"lora": lora}, runs=runs) == ["sft.learning_rate"], "an adapter takes more"
    for file in (ROOT / "params.yaml", *(ROOT / "presets").glob("*.yaml")):
        assert not cautions(parse(ParamsFile, read_yaml(file))), file.name
