"""The field's terms in code, templates and docs: phrases that a reader from outside stumbles over do not return."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
READ = [
    file
    for folder in ("src", "stages", "docs")
    for file in sorted((ROOT / folder).rglob("*"))
    if file.suffix in {".py", ".jinja", ".md"}
]
# What is meant here is words of a text, between spaces, or the idiom.
OF_A_TEXT = {
    "docs/extending.md",
    "docs/howto.md",
    "src/epsilon_dpo/data/contract/near.py",
    "src/epsilon_dpo/data/generated/truth.py",
    "src/epsilon_dpo/data/sources/reviews.py",
    "src/epsilon_dpo/data/tokens/tokenisation.py",
    "src/epsilon_dpo/judging/judges/interface.py",
    "src/epsilon_dpo/models/base/embedded.py",
}
INSTEAD = {
    r"\bwords?\b": "token, or vocabulary",
    r"\b(its|their|these|own|other|same|training|declared) numbers\b": "config, metrics or values",
    r"\bwhole (output|folder|checkpoint|policy|policies|model)s?\b": "complete, atomic, sealed, merged or full",
    r"\b(shall|mend(s|ed)?)\b": "what is to be, as a statement; fix",
    r"\b(processes apart|as upstream has it|answers meet|rows ask the same)\b": "the field's term",
}


@pytest.mark.parametrize(("phrase", "instead"), INSTEAD.items(), ids=INSTEAD.values())
def test_the_fields_terms_are_used(phrase: str, instead: str) -> None:
    found = []
    for file in READ:
        name = str(file.relative_to(ROOT))
        if "word" in phrase and name in OF_A_TEXT:
            continue
        lines = file.read_text("utf-8").splitlines()
        found += [f"{name}:{n}: {line.strip()}" for n, line in enumerate(lines, 1) if re.search(phrase, line)]
    assert not found, f"write {instead}:\n" + "\n".join(found)
