from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with one for a study and one for its page."""
    monkeypatch.chdir(tmp_path)
    for folder in ("study", "docs"):
        Path(folder).mkdir()
    return tmp_path
