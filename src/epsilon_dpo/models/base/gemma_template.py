"""Gemma-2's chat template, shipped here because gemma-2-2b has none and it decides what is trained."""

from pathlib import Path

TEMPLATE = (Path(__file__).parent / "templates" / "gemma.jinja").read_text("utf-8")
START_OF_TURN = "<start_of_turn>"
END_OF_TURN = "<end_of_turn>"
