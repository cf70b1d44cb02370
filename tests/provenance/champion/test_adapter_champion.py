"""A champion that is an adapter is merged into what it was trained on, and not into what lies there by now."""

import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from promotion_project import dvc

from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.mlflow_writer.registry import Version
from epsilon_dpo.models.policy.folder import load_policy, save_policy
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.provenance.champion import weights
from epsilon_dpo.training.loop.adapters import ADAPTER, adapter_weights, start_from
from epsilon_dpo.training.loop.params import LoRA

pytestmark = pytest.mark.slow
LORA = LoRA(r=2, lora_alpha=4, lora_dropout=0.0, target_modules="all-linear", quantise=None)
OUTS = {"": "out/align/mine", "base.": "out/sft", "base.base.": "out/base/model"}
TRAINED = {"out/sft/model": "out/base/model", "out/align/mine/model": "out/sft/model"}  # on what
SAID = {"run": "mine", "decision": "it was better"}


@pytest.fixture
def tags(sft_folder: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Those of an adapter on an adapter, which lie in the working folder and in the cache of its DVC project."""
    start = sft_folder()
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    dvc("init", "-q", "--no-scm")
    shutil.copytree(start, "out/base/model")
    for seed, (folder, base) in enumerate(TRAINED.items()):
        model = start_from(Path(base), LORA, seed)
        for weight in adapter_weights(model, ADAPTER):
            torch.nn.init.normal_(weight, std=0.1)
        save_policy(model, load_tokenizer(Path(base)), Path(folder))
    dvc("add", "-q", *OUTS.values())
    found = dict(SAID)
    for before, out in OUTS.items():
        path = out if out.endswith("/model") else f"{out}/model"
        md5 = read_yaml(Path(f"{out}.dvc"))["outs"][0]["md5"]
        own = {"policy_sha256": digest(Path(path)), "dvc_path": path, "dvc_out": out, "dvc_md5": md5}
        found |= {before + tag: value for tag, value in own.items()}
    return found


def champion(monkeypatch: pytest.MonkeyPatch, tags: dict[str, str], out: str | None) -> str:
    monkeypatch.setattr(weights, "champion_of", lambda name, project: Version(name, "1", tags))
    return weights.champion(Namespace(name="policy", out=out and Path(out)))


def test_an_adapter_is_merged_into_what_it_was_trained_on(
    tags: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = load_policy(Path("out/align/mine/model")).state_dict()
    said = champion(monkeypatch, tags, None)
    assert "out/align/mine/model has this sha256" in said
    assert f"adapter   on out/sft/model of out/sft, md5 {tags['base.dvc_md5']}; sha256 " in said

    shutil.rmtree("out/base")
    shutil.rmtree("out/sft/model")
    shutil.copytree("out/align/mine/model", "out/sft/model")  # of another training, say
    assert "--out DIR" in champion(monkeypatch, tags, None), "its base is not there any more"
    said = champion(monkeypatch, tags, "weights")
    assert "weights, merged from out/align/mine/model and DVC's cache; the sha256 of its parts are those of the" in said
    assert Path("weights").stat().st_mode == Path("out").stat().st_mode, "others may read it as what a user makes"
    found = load_policy(Path("weights")).state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert load_tokenizer(Path("weights")).eos_token_id == 2
    names = {file.name for file in Path("weights").iterdir()}
    assert "adapter_config.json" not in names and all(Path("weights", name).is_file() for name in names)


def test_an_adapter_on_an_unknown_base_is_not_handed_out_as_the_policy(
    tags: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {tag: value for tag, value in tags.items() if not tag.startswith("base.")}
    with pytest.raises(UserError, match="an adapter, and its version does not say on what: `epsilon-dpo promote mine`"):
        champion(monkeypatch, own, "weights")
    with pytest.raises(UserError, match=r"\.\./sft/model is no place in a project"):
        champion(monkeypatch, tags | {"base.dvc_path": "out/../sft/model"}, "weights")
    half = {tag: value for tag, value in tags.items() if tag != "base.dvc_path"}
    with pytest.raises(UserError, match="no tag dvc_path of what the policy is an adapter on; `epsilon-dpo promote"):
        champion(monkeypatch, half, None)
    assert not Path("weights").exists()
