"""A model's folder may hold code; nothing here runs it, whatever is on the stage's stdin."""

import ast
import io
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from transformers import Gemma2ForCausalLM

from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.judging.judges.reward_model import RewardModel
from epsilon_dpo.models.base.embedded import train_tokenizer
from epsilon_dpo.models.base.params import EmbeddedModel, PretrainedModel
from epsilon_dpo.models.base.pretrained import load_pretrained
from epsilon_dpo.models.policy.folder import load_policy
from epsilon_dpo.pipeline.observability.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
CODELESS = {"GenerationConfig", "PeftModel"}  # have no such argument: they load no class that a folder names


def loads(tree: ast.AST) -> list[ast.Call]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "from_pretrained"]


def test_every_loading_forbids_code() -> None:
    """Without the argument transformers asks on stdin, which under DVC is the user's."""
    found, open_doors = 0, []
    for folder in ("src", "stages", "external", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for call in loads(ast.parse(file.read_text("utf-8"))):
                assert isinstance(call.func, ast.Attribute)
                if ast.unparse(call.func.value) in CODELESS:
                    continue
                found += 1
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                if given.get("trust_remote_code") != "False":
                    open_doors.append(f"{file.relative_to(ROOT)}:{call.lineno}")
    assert found >= 10 and not open_doors


EVIL = """
from pathlib import Path
Path("pwned").write_text("")
from transformers import {base}
class Evil({base}):
    model_type = "evil"
"""
GENERATE = 'from pathlib import Path\nPath("pwned").write_text("")\ndef generate(model, **_): pass\n'


@pytest.fixture(autouse=True)
def willing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user, or a pipe, that answers every question with yes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n" * 100))
    monkeypatch.setattr("builtins.input", lambda *_: "yes")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture
def folder(tmp_path: Path, tiny_gemma: Callable[..., Gemma2ForCausalLM]) -> Path:
    sizes = EmbeddedModel(
        source="embedded", vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, initializer_range=0.1, max_position_embeddings=64,
    )  # fmt: skip
    tokenizer = train_tokenizer(["Hello there.", "Good day."] * 5, sizes)
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_gemma(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def own_model(folder: Path) -> None:
    (folder / "evil.py").write_text(EVIL.format(base="PreTrainedConfig"))
    classes = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil",
               "AutoModelForSequenceClassification": "evil.Evil"}  # fmt: skip
    edit(folder / "config.json", model_type="evil", auto_map=classes)


def own_tokenizer(folder: Path) -> None:
    (folder / "evil.py").write_text(EVIL.format(base="PreTrainedTokenizerFast"))
    classes = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    edit(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map=classes)


def own_generation(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(GENERATE)


def as_base(folder: Path) -> None:
    load_pretrained(
        PretrainedModel(source="pretrained", path=str(folder), revision=None, dtype="float32", chat_template="own",
                        stop_token="<end_of_turn>")
    )  # fmt: skip


def as_policy(folder: Path) -> None:
    load_policy(folder)


def as_reward_model(folder: Path) -> None:
    RewardModel.load({"dtype": "float32", "max_length": 64, "batch_size": 2}, folder)


@pytest.mark.parametrize("load", [as_base, as_policy, as_reward_model])
def test_code_of_a_model_is_refused_and_not_run(folder: Path, load: Callable[[Path], object]) -> None:
    own_model(folder)
    with pytest.raises(UserError, match="code of its own, which is never run here") as refusal:
        load(folder)
    assert "\n" not in str(refusal.value) and str(folder) in str(refusal.value)
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("code", "load", "refused"),
    [(own_tokenizer, as_base, None), (own_tokenizer, load_tokenizer, None),
     (own_tokenizer, as_reward_model, "describes 2 labels"),  # once its tokenizer is loaded
     (own_generation, as_base, None), (own_generation, as_policy, None)],
)  # fmt: skip
def test_code_that_is_not_needed_is_not_run(
    folder: Path, code: Callable[[Path], None], load: Callable[[Path], object], refused: str | None
) -> None:
    """tokenizer.json is enough, and answers are sampled by code of this project."""
    code(folder)
    with nullcontext() if refused is None else pytest.raises(UserError, match=f"^[^\n]*{refused}[^\n]*$"):
        load(folder)
    assert not Path("pwned").exists()
