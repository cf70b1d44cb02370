"""What several tests need: a small Gemma-2 in memory, token pairs with a shared prompt, a project with a store."""

import gc
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import psutil
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from epsilon_dpo.pipeline.observability import tracker
from epsilon_dpo.pipeline.observability.child import Leader, start_process
from epsilon_dpo.pipeline.stage.gpus import LAUNCHER

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would all below
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"  # where the tests' own servers are
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # as in `make ui`


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole pipelines, which stand beside this file, come before the rooms: a long file that began last would leave one
    of two workers idle."""
    items.sort(key=lambda item: len(item.path.parts))


def pytest_configure() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """What was imported stays, and the garbage collector need not look at it: every training in a test calls it, which
    took a fifth of the test."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    """What a stage starts early for its MLflow run imports MLflow for seconds, and then waits for ever."""
    yield
    left = len(tracker._waiting)
    while tracker._waiting:
        tracker._waiting.pop().kill()
    assert not left, "a stage in the test's own process started one for its MLflow run: tests/untracked.py"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose MLflow store the first test creates; creating one takes seconds."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def leader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leader]:
    """In the place of a `dvc`: MLflow is imported once for all stages that have their process from it, and is now."""
    with subprocess.Popen(["sleep", "3600"]) as process:
        found = Leader(process.pid, psutil.Process(process.pid).create_time())
        with chdir(tmp_path_factory.mktemp("first")):
            first = start_process(found)
        assert first.stdin is not None
        first.stdin.close()
        first.wait(60)
        yield found
        process.kill()


@pytest.fixture
def other_order() -> dict[str, str]:
    """The environment of a process whose sets are in another order than those of this one."""
    return os.environ | {"PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}


@pytest.fixture
def tiny_gemma() -> Callable[..., Gemma2ForCausalLM]:
    """Make a two-layer Gemma-2 (64 tokens, soft-caps on) from a seed, with logits far enough from uniform to matter."""

    def make(seed: int = 0, **changes: object) -> Gemma2ForCausalLM:
        torch.manual_seed(seed)
        settings = {
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "max_position_embeddings": 64,
            "sliding_window": 32,
            "initializer_range": 0.3,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "attn_implementation": "eager",
        }
        return Gemma2ForCausalLM(Gemma2Config(**{**settings, **changes})).eval()

    return make


@pytest.fixture
def token_pairs() -> Callable[[int], list[dict]]:
    """Make `count` pairs in the form of out/pairs/*.jsonl: random prompts, two different answers of unequal length."""

    def make(count: int) -> list[dict]:
        generator = torch.Generator().manual_seed(7)

        def ids(low: int, high: int) -> list[int]:
            length = int(torch.randint(low, high, (), generator=generator))
            return torch.randint(3, 64, (length,), generator=generator).tolist()

        return [
            {
                "id": f"pair/{row}",
                "prompt_ids": [1, *ids(2, 6)],
                "chosen_ids": [*ids(2, 9), 2],
                "rejected_ids": [*ids(2, 9), 2],
            }
            for row in range(count)
        ]

    return make


@pytest.fixture
def sft_folder(tiny_gemma: Callable[..., Gemma2ForCausalLM], tmp_path: Path) -> Callable[..., Path]:
    """Write a model folder as stage sft does: weights, a tokenizer of 64 tokens, generation settings."""

    def make(dtype: torch.dtype = torch.float32) -> Path:
        folder = tmp_path / "sft"
        vocabulary = ["<pad>", "<bos>", "<end_of_turn>", *(f"w{n}" for n in range(61))]
        tokenizer = Tokenizer(WordLevel({token: n for n, token in enumerate(vocabulary)}, unk_token="w0"))
        tokenizer.pre_tokenizer = Whitespace()
        special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<end_of_turn>", "unk_token": "w0"}
        template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **special)
        fast.save_pretrained(folder)
        tiny_gemma().to(dtype).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Choose one of launchers/ by name, with two processes, for the rest of the test."""

    def choose(kind: str) -> None:
        file, root = tmp_path / f"{kind}.yaml", Path(__file__).resolve().parent.parent
        text = (root / "launchers" / f"{kind}.yaml").read_text("utf-8")
        file.write_text(text.replace("num_processes: 4", "num_processes: 2"), "utf-8")
        monkeypatch.setenv(LAUNCHER, str(file))

    return choose
