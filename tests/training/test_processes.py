"""Trainings in two processes that a launcher starts, as copies (DDP) and sharding the weights (FSDP2, on gloo)."""

import errno
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import parts
import pytest
import torch
from processes_of_tests import until_gone
from runs import (
    BETA_DPO,
    DPO,
    EPSILON_DPO,
    GAMMA_SIMPO,
    HARD,
    KTO,
    LORA,
    SOFT,
    STATE,
    config,
    content,
    sealed,
)
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from epsilon_dpo.pipeline.launch import processes
from epsilon_dpo.pipeline.launch.launcher import Launcher, launcher
from epsilon_dpo.pipeline.launch.processes import _Tracked, run_part
from epsilon_dpo.pipeline.launch.worker import _refuse
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_jsonl
from epsilon_dpo.pipeline.stage.gpus import LAUNCHER
from epsilon_dpo.training.loop.arguments import require_a_row_each

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHONPATH = f"{ROOT / 'src'}:{Path(__file__).parent}"  # the processes import this folder's parts.py
SIMPO = {"method": "simpo", "beta": 2.5, "gamma": 1.0}
ENTRIES = {
    "dpo": DPO, "epsilon_dpo": EPSILON_DPO, "beta_dpo": BETA_DPO, "kto": KTO, "soft": SOFT, "hard": HARD,
    "simpo": SIMPO, "gamma_po": GAMMA_SIMPO, "snapshots": EPSILON_DPO | {"snapshot_epochs": 1.0},
}  # fmt: skip
WITH_LORA = {"lora_dpo": DPO, "lora_epsilon_dpo": EPSILON_DPO, "lora_soft": SOFT}
PAIRS = 21  # 4 a step: the last of an epoch has one pair, fewer than there are processes


@pytest.fixture(params=["ddp", "fsdp"])
def two(request, two_processes, monkeypatch):
    two_processes(request.param)
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH, prepend=":")
    return request.param


def assert_alike(one, other, tolerance):
    rows, others = (read_jsonl(folder / "metrics.jsonl") for folder in (one, other))
    for row, same in zip(rows, others, strict=True):
        assert [row.get(name) for name in STATE] == [same.get(name) for name in STATE]
        assert row == pytest.approx(same, rel=tolerance, abs=tolerance)
    metrics, same = (read_json(folder / "metrics.json") for folder in (one, other))
    assert same.pop("processes") == 2 and metrics == pytest.approx(same, rel=tolerance, abs=tolerance)
    for file in sorted(one.rglob("*.safetensors")):
        weights, same = load_file(file), load_file(other / file.relative_to(one))
        assert weights.keys() == same.keys()
        torch.testing.assert_close(weights, same, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("two", [pytest.param("ddp", marks=pytest.mark.campaign), "fsdp"], indirect=True)
def test_two_processes_train_as_one(run, token_pairs, tmp_path, two):
    """Losses, decisions, betas, evaluation and weights, also where the last step has fewer pairs than processes.

    And with bfloat16, which had no effect on SFT under FSDP: accelerate prepares no model that is sharded already. The
    model `sharp` has logits large enough that its rounding was taken for a pair that cannot share its prompt.
    """
    of = {name: (entry, {}) for name, entry in ENTRIES.items()}
    of |= {name: (entry, {"lora": LORA}) for name, entry in WITH_LORA.items()}
    of["checkpointing"] = (EPSILON_DPO, {"gradient_checkpointing": True, "micro_batch_size": 1})
    of |= {"half": (EPSILON_DPO, {"bf16": True}), "half_lora": (SOFT, {"bf16": True, "lora": LORA})}
    if two == "ddp" and importlib.util.find_spec("bitsandbytes"):
        of["qlora"] = (EPSILON_DPO, {"lora": LORA | {"quantise": "nf4"}})
    alone = {name: run(name, entry, count=PAIRS, **changes) for name, (entry, changes) in of.items()}
    sft = sft_inputs(tmp_path, token_pairs)
    half = sft | {"bf16": True}
    for name, settings in (("alone", sft), ("bfloat16", half)):
        (tmp_path / name).mkdir()
        parts.fine_tuned(settings, tmp_path, tmp_path / name, tmp_path / f"{name}-scratch", lambda metrics, step: None)
    arguments = {
        "root": str(tmp_path),
        "align": {name: [entry, config(**changes).model_dump()] for name, (entry, changes) in of.items()},
        "sft": {"plain": sft, "bfloat16": half},
        "models": {"sharp": "sharp_model"},
    }
    arguments["align"]["sharp"] = [DPO, config(bf16=True).model_dump()]
    save_sharp_model(tmp_path)
    tracked = []
    run_part(parts.trainings, arguments, lambda metrics, step: tracked.append(step))
    for name, folder in {**alone, "plain": tmp_path / "alone"}.items():
        assert_alike(folder, tmp_path / "processes" / name, 2e-4)
    assert len(tracked) > 12 * len(of) and (tmp_path / "processes" / "sharp" / "metrics.json").is_file()
    rounded = losses(tmp_path / "bfloat16")
    rounding = (rounded - losses(tmp_path / "alone")).abs().max()
    assert (losses(tmp_path / "processes" / "bfloat16") - rounded).abs().max() < rounding / 4


def save_sharp_model(root):
    torch.manual_seed(0)
    vocab_size = read_json(root / "sft" / "config.json")["vocab_size"]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    llama = LlamaConfig(**sizes, vocab_size=vocab_size, initializer_range=0.3, pad_token_id=0, eos_token_id=2)
    AutoModelForCausalLM.from_config(llama).save_pretrained(root / "sharp_model")
    AutoTokenizer.from_pretrained(root / "sft").save_pretrained(root / "sharp_model")


def losses(folder):
    return torch.tensor([row["loss"] for row in read_jsonl(folder / "metrics.jsonl")])


# BOS, a token for the role, the text, the stop token.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} {{ 'w1' if m['role'] == 'user' else 'w2' }} {{ m['content'] }} "
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %} w2{% endif %}"
)


def sft_inputs(root, token_pairs):
    """Folders as stage base and validate write them; the block sft."""
    tokenizer = AutoTokenizer.from_pretrained(root / "sft")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(root / "base" / "tokenizer")
    AutoModelForCausalLM.from_pretrained(root / "sft").save_pretrained(root / "base" / "model")
    (root / "validated").mkdir()
    said = lambda role, ids: [{"role": role, "content": " ".join(f"w{id_}" for id_ in ids[:4])}]  # noqa: E731
    for split, pairs in (("train", token_pairs(13)), ("eval", token_pairs(16)[13:])):
        rows = [
            {"id": x["id"], "prompt": said("user", x["prompt_ids"]), "chosen": said("assistant", x["chosen_ids"])}
            for x in pairs
        ]
        write_jsonl(root / "validated" / f"{split}.jsonl", rows)
    block = config().model_dump() | {"completion_only_loss": True}
    return {name: value for name, value in block.items() if name not in ("logps_token_chunk", "share_prompt")}


KILLED = """
import json, sys
from pathlib import Path
import parts
from epsilon_dpo.pipeline.launch.processes import run_part
from epsilon_dpo.pipeline.stage.gpus import LAUNCHER
from epsilon_dpo.pipeline.observability.errors import UserError
try:
    print(run_part(parts.one_dies, json.loads(sys.argv[1]), lambda metrics, step: print(step, flush=True)))
except UserError as error:
    sys.exit(f"ERROR {error}")
"""


def given(root, victim):
    """The arguments of parts.one_dies."""
    settings = config(num_train_epochs=3.0).model_dump()
    return {"root": str(root), "victim": victim, "entry": SOFT | {"snapshot_epochs": 1.0}, "settings": settings}


def undisturbed(root):
    """The steps that a training tracks, and how many it computes."""
    steps = []
    computed = run_part(parts.one_dies, given(root, "nobody"), lambda metrics, step: steps.append(step))
    return steps, computed[0]


def start(root, victim):
    """A process that waits for two others to train, as a stage does."""
    (root / "pid-0").unlink(missing_ok=True)
    command = [sys.executable, "-c", KILLED, json.dumps(given(root, victim))]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ranks(root):
    files = [root / f"pid-{rank}" for rank in "01"]
    return [int(file.read_text("utf-8")) for file in files if file.exists()]


def in_one_process(two, monkeypatch):
    """What goes on from here: sharded in a launcher's only process where it began so, else in this one."""
    if two == "ddp":
        monkeypatch.delenv(LAUNCHER)
    else:
        file = Path(os.environ[LAUNCHER])
        file.write_text(file.read_text("utf-8").replace("num_processes: 2", "num_processes: 1"), "utf-8")


AFTER_STEP_6 = 12 + 1  # of 18; FSDP's way to make the optimizer states that a checkpoint is read into counts as a step
OTHERS = ["1", "launcher", "SIGINT", "SIGTERM"]  # the last two are sent to the stage


@pytest.mark.slow
@pytest.mark.parametrize(
    ("two", "victims"),
    [
        ("fsdp", ["0"]),
        pytest.param("fsdp", ["SIGTERM"], marks=pytest.mark.campaign),
        pytest.param("ddp", OTHERS, marks=pytest.mark.campaign),
    ],
    indirect=["two"],
)
def test_whoever_is_killed_the_stage_ends_at_once_and_goes_on_to_the_same_bytes(
    run, tmp_path, monkeypatch, two, victims
):
    """And in one process to the same but for rounding."""
    run("unused", DPO, count=PAIRS, max_steps=1, warmup_ratio=0.0)  # makes sft and pairs
    whole, root = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, root):
        folder.mkdir()
        for made in ("sft", "pairs"):
            (folder / made).symlink_to(tmp_path / made)
    steps, computed = undisturbed(whole)
    assert computed == 18
    for victim in victims:
        of_stage = victim.startswith("SIG")
        stage = start(root, "nobody" if of_stage else victim)
        assert any(line.strip() == "7" for line in stage.stdout), stage.stderr.read()
        if of_stage:
            stage.send_signal(getattr(signal, victim))
        stage.communicate(timeout=300)  # rank 0 would wait longer
        assert stage.returncode != 0
        pids = ranks(root)
        assert len(pids) == 2
        until_gone(*pids, within_s=60.0)
        assert not (root / "out" / "metrics.json").exists()
    fewer = shutil.copytree(root, tmp_path / "fewer", symlinks=True)
    again, computed = undisturbed(root)
    assert again == steps, "a resumed stage tracks all rows again"
    assert computed <= AFTER_STEP_6
    assert content(root / "out") == content(whole / "out")
    in_one_process(two, monkeypatch)
    again, computed = undisturbed(fewer)
    assert again == steps and computed <= AFTER_STEP_6
    assert_alike(fewer / "out", whole / "out", 2e-4)


@pytest.mark.slow
def test_every_process_does_the_part_and_an_unfinished_checkpoint_is_removed_once(two_processes, monkeypatch, tmp_path):
    """The first is heard. Two that both removed it stumbled over each other's deletions; many files, so that they
    always meet."""
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    two_processes("ddp")
    whole = sealed(tmp_path, 4, {"a": "1"})
    for part in range(40):
        unfinished = tmp_path / "checkpoint-8" / f"{part}"
        unfinished.mkdir(parents=True)
        for file in range(50):
            (unfinished / f"{file}").touch()
    tracked = []
    arguments = {"x": [1, None, "a"], "folder": str(tmp_path)}
    found = run_part(parts.says, arguments, lambda metrics, step: tracked.append((metrics, step)))
    assert found == [[rank, "2", [1, None, "a"], str(whole)] for rank in "01"] and tracked == [({"rank": 0.0}, 1)]
    assert list(tmp_path.glob("checkpoint-*")) == [whole]


@pytest.mark.slow
def test_what_one_process_refuses_is_said_in_one_sentence(two_processes, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    two_processes("fsdp")
    with pytest.raises(UserError, match=r"^rank 1 cannot read its rows; give it some.$"):
        run_part(parts.refuses, {}, lambda metrics, step: None)
    assert "Traceback" not in capfd.readouterr().err


class Growing(io.RawIOBase):
    """A file to which something is added whenever its end is read."""

    def __init__(self, there, *added):
        self.there, self.added, self.position = there, list(added), 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=0):
        self.position = offset
        return offset

    def readinto(self, buffer):
        read = self.there[self.position :][: len(buffer)]
        buffer[: len(read)] = read
        self.position += len(read)
        if not read and self.added:
            self.there += self.added.pop(0)
        return len(read)


def test_a_row_that_is_finished_while_the_stage_reads_it_is_read_whole():
    """The stage took its end for the next row, and a training in several processes ended with an error."""
    rows = b'[{"loss": 0.5}, 1]\n[{"loss": 0.25}, 2]\n'
    looks = [Growing(rows[:25], rows[25:]), Growing(rows), Growing(rows)]
    file = SimpleNamespace(exists=lambda: True, open=lambda mode: io.BufferedReader(looks.pop(0)))
    tracked = []
    reader = _Tracked(file, lambda metrics, step: tracked.append((metrics, step)))
    while looks:
        reader.look()
    assert tracked == [({"loss": 0.5}, 1), ({"loss": 0.25}, 2)]


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A launcher of two processes, in whose place a program does what it is told in the folder that they share."""
    monkeypatch.setattr(processes, "launcher", lambda: Launcher(tmp_path / "ddp.yaml", 2, 2, False, None))
    monkeypatch.setattr(processes, "_meeting_place", lambda _: tmp_path)

    def does(program):
        start = f"import sys; from pathlib import Path; folder = Path(sys.argv[1]); {program}"
        monkeypatch.setattr(processes, "_command", lambda _, folder: [sys.executable, "-c", start, str(folder)])

    return does


def test_what_each_process_returned_is_read_where_the_folder_is_listed_as_it_was(stand_in, monkeypatch):
    """As by NFS, of another machine's files: the share of the last process was left out without a word."""
    stand_in("[(folder / f'result-{rank}.json').write_text(str(rank)) for rank in (0, 1)]")
    listed = Path.glob
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: list(listed(folder, pattern))[:1])
    assert run_part(parts.says, {}, lambda metrics, step: None) == [0, 1]


def test_a_refusal_is_heard_where_another_machine_still_writes_into_the_folder(stand_in, monkeypatch):
    """It could not be removed then, and that was said in the place of the sentence."""
    stand_in("(folder / 'refused.txt').write_text('the data is refused')")
    remove = os.rmdir

    def meanwhile(path, *, dir_fd=None):
        if "launch-" in str(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
        remove(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", meanwhile)
    with pytest.raises(UserError, match=r"^the data is refused$"):
        run_part(parts.refuses, {}, lambda metrics, step: None)


def test_a_refusal_that_the_full_disk_does_not_take_is_said_by_its_process(tmp_path, monkeypatch):
    """It was a traceback, of the refusal and not of what was refused."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SystemExit, match=r"^the disk of scratch takes no more\.$"):
        _refuse(tmp_path, 1, "the disk of scratch takes no more.")


def test_more_processes_than_rows_of_a_step_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    require_a_row_each(2)
    with pytest.raises(UserError, match=r"batch_size is 1, and each of the launcher's 2 processes needs a row"):
        require_a_row_each(1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("distributed_type: FSDP", "distributed_type: DEEPSPEED"), "distributed_type is DEEPSPEED; it must be one of"),
        (('mixed_precision: "no"', "mixed_precision: bf16"), "mixed_precision is bf16, which no launcher may decide"),
        (("num_processes: 4", "num_processes: 0"), "num_processes is 0"),
        (("num_machines: 1", "num_machines: 3"), "equally many on each"),
        (("fsdp_version: 2", "fsdp_version: 1"), "fsdp_config.fsdp_version is 1 and must be 2"),
        (("NO_WRAP", "TRANSFORMER_BASED_WRAP"), "must be NO_WRAP"),
    ],
)
def test_a_launcher_that_would_change_more_than_rounding_is_refused(tmp_path, monkeypatch, change, sentence):
    text = (ROOT / "launchers" / "fsdp.yaml").read_text("utf-8")
    assert change[0] in text
    (tmp_path / "own.yaml").write_text(text.replace(*change), "utf-8")
    monkeypatch.setenv(LAUNCHER, str(tmp_path / "own.yaml"))
    with pytest.raises(UserError, match=r"own\.yaml") as error:
        launcher()
    assert sentence in str(error.value)


def test_the_launchers_at_hand_are_valid(monkeypatch):
    found = {}
    for file in sorted((ROOT / "launchers").glob("*.yaml")):
        monkeypatch.setenv(LAUNCHER, str(file))
        found[file.stem] = launcher()
    assert (found["one"].processes, found["ddp"].processes, found["fsdp"].sharded) == (1, 4, True)
    monkeypatch.setenv(LAUNCHER, "launchers/nowhere.yaml")
    with pytest.raises(UserError, match=r"names launchers/nowhere\.yaml, which is no file"):
        launcher()
