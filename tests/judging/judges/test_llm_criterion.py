"""By what a language model knows the better answer: the user's own text, in place of the one for everybody."""

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml
from judge_server import JudgeServer
from llm_replies import CACHE, PROMPT, QUESTIONS, SETTINGS, completion, replies

from epsilon_dpo.check.params_file import ParamsFile
from epsilon_dpo.judging.judges.answer_cache import key_of
from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.judging.judges.llm import LLM
from epsilon_dpo.judging.judges.llm_prompt import CRITERION, messages
from epsilon_dpo.judging.judges.loading import load_judge
from epsilon_dpo.judging.making.params import LLMJudge
from epsilon_dpo.judging.making.sources import build
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json
from epsilon_dpo.pipeline.stage.params import parse, read_yaml

ROOT = Path(__file__).resolve().parents[3]
FAITHFUL = "The better summary adds nothing that the post does not say."
RUBRIC = "1. It runs.\n2. It is tested: {name} and \\boxed{answer} may stand in it, and [[1, 2]]."
BEFORE, AFTER = "You compare two answers to the last message of a dialogue.", "reply with one letter only: A or B."


def made(url: str, **changes: Any) -> dict[str, Any]:
    """judge.json of stage `judge`, whose judge is in the folder `made`."""
    out = Path("made")
    out.mkdir(exist_ok=True)
    params = LLMJudge(source="llm", base_url=url, **SETTINGS | changes)
    build(params, [], 0, out, Path("scratch"), lambda *_: None, save_steps=1000)
    return dict(read_json(out / "judge.json"))


def told(server: JudgeServer) -> str:
    """The instruction of the last question."""
    first, last = server.bodies[-1]["messages"]
    assert (first["role"], last["role"]) == ("system", "user")
    return str(first["content"])


def test_without_one_every_byte_is_what_was_paid_for_before_there_were_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of a kept reply, and the judge's hash, as the version before `criterion` had them."""
    monkeypatch.chdir(tmp_path)
    url = "http://localhost:8000/v1"
    asked = messages(PROMPT, "It scatters blue light.", "No idea.")
    request = {"model": "judge", "max_tokens": 4, "messages": asked, "temperature": 0.0}
    assert key_of(url, request) == "8b86d34ce27ff0af3a175731385ac7b65722446356b47d366f0a8b465730ce07"
    assert made(url)["model_sha256"] == "3aeeea8baaef475f8b15e3cf5cac9cf6ecdbb17711ba57d80eae13af14384221"


@pytest.mark.parametrize("criterion", [FAITHFUL, f"\n{RUBRIC}\n"], ids=["sentence", "rubric"])
def test_a_criterion_stands_in_every_question_and_the_form_of_the_reply_stays(
    server: JudgeServer, criterion: str
) -> None:
    settings = made(server.url, criterion=criterion)
    assert settings["criterion"] == criterion.strip()
    judge = load_judge(Path("made"))
    judge.compare(QUESTIONS[:1])
    judge.rank([PROMPT], [["because", "for that"]])
    assert server.tries == 4
    for body in server.bodies:
        instruction, question = body["messages"]
        assert instruction["content"].startswith(BEFORE) and instruction["content"].endswith(AFTER)
        assert criterion.strip() in instruction["content"] and "harmless" not in instruction["content"]
        assert question["content"].endswith("Which answer is better? Reply with one letter only: A or B.")
    assert (f"{BEFORE}\n\n1. It runs.\n" in told(server)) == (criterion != FAITHFUL), "a rubric begins on its own line"


def test_another_criterion_is_another_question_and_another_judge(server: JudgeServer) -> None:
    judges = []
    for criterion in (None, FAITHFUL, RUBRIC):
        judges.append(made(server.url, criterion=criterion))
        load_judge(Path("made")).compare(QUESTIONS[:1])
    assert server.tries == 6 and len({judge["model_sha256"] for judge in judges}) == 3
    judges.append(made(server.url, criterion=CRITERION))
    load_judge(Path("made")).compare(QUESTIONS[:1])
    assert server.tries == 6 and judges[-1]["model_sha256"] == judges[0]["model_sha256"], "the same text, written out"


def test_a_judge_that_an_older_version_wrote_is_asked_as_then(server: JudgeServer) -> None:
    LLM.load(SETTINGS | {"base_url": server.url}).compare(QUESTIONS[:1])
    assert CRITERION in told(server)


def test_only_letters_under_the_same_criterion_make_a_judge(
    server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A criterion that asks for a grade is stopped after ten replies, also where the model gave letters before."""
    settings = SETTINGS | {"base_url": server.url}
    many = [Question(PROMPT, f"since {n}", f"for {n}") for n in range(20)]
    LLM.load(settings).compare(QUESTIONS)
    LLM.load(settings | {"criterion": FAITHFUL}).compare(QUESTIONS)
    monkeypatch.setattr(server, "reply", lambda *_: (200, completion("8 of 10")))
    assert all(verdict.refused for verdict in LLM.load(settings | {"criterion": FAITHFUL}).compare(many))
    before = len(replies())
    with pytest.raises(UserError, match=r"A or B; .* take from judge\.criterion what it says of the reply, or choose"):
        LLM.load(settings | {"criterion": "Grade both answers from 1 to 10."}).compare(many)
    assert len(replies()) == before
    with sqlite3.connect(CACHE) as kept:
        kept.execute("DELETE FROM answers")
    with pytest.raises(UserError, match="none of the 10 replies") as refusal:
        LLM.load(settings).compare(many)
    assert "criterion" not in str(refusal.value), "there is none to correct"


@pytest.mark.parametrize(
    ("criterion", "reason"),
    [
        ("", "it must say which answer is better; null takes"),
        (" \n", "it must say which answer is better; null takes"),
        ("Question: {question}", "{question} belongs to a template, and nothing is put in its place; keep only"),
        ("# A\n{{ ANSWER_A }}", "{{ ANSWER_A }} belongs to a template"),
        ("Output (b): {output_2}", "{output_2} belongs to a template"),
        ("Say [[A]] if A is better.", "[[A]] belongs to a template"),
        ("[[A>>B]]: much better", "[[A>>B]] belongs to a template"),
        ("End with [[rating]].", "[[rating]] belongs to a template"),
    ],
)
def test_what_is_no_criterion_is_refused_before_anything_runs(criterion: str, reason: str) -> None:
    block = {"source": "llm", "base_url": "http://localhost:8000/v1", **SETTINGS, "criterion": criterion}
    with pytest.raises(UserError) as refusal:
        parse(ParamsFile, read_yaml(ROOT / "params.yaml") | {"judge": block})
    assert f"is refused: {reason}" in str(refusal.value) and "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("params.yaml: judge.criterion = ")


def test_the_reason_is_not_buried_under_a_rubric() -> None:
    block = {
        "source": "llm",
        "base_url": "http://localhost:8000/v1",
        **SETTINGS,
        "criterion": "It runs. {prompt} " * 90,
    }
    with pytest.raises(UserError) as refusal:
        parse(ParamsFile, read_yaml(ROOT / "params.yaml") | {"judge": block})
    assert len(str(refusal.value)) < 400


def test_the_block_and_the_example_of_the_page_are_taken() -> None:
    """docs/howto.md has the only complete block of this judge: no preset asks one."""
    page = (ROOT / "docs/howto.md").read_text("utf-8")
    block = re.findall(r"```yaml\n(judge:\n  source: llm\n.*?)```", page, re.DOTALL)[0]
    example = re.findall(r"```yaml\n( +criterion: >-\n.*?)```", page, re.DOTALL)[0]
    assert example.startswith("    criterion"), "as it is indented in the block, below an item of a list"
    own = re.sub(r" +criterion: null.*\n", re.sub(r"^  ", "", example, flags=re.MULTILINE), block)
    for text in (block, own):
        judge = parse(ParamsFile, read_yaml(ROOT / "params.yaml") | yaml.safe_load(text)).judge
        assert isinstance(judge, LLMJudge) and set(judge.model_fields_set) == set(LLMJudge.model_fields)
    assert judge.criterion is not None and judge.criterion.startswith("The better answer is the summary")
