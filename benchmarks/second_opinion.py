"""What VADER says of the answers that a finished `presets/control.yaml` scored by its own classifier (docs/rlhf.md).

    python benchmarks/second_opinion.py            # after `dvc repro`; elsewhere with the project's folder

Positive is a text, prompt and answer together, that VADER's rules put above the middle of their scale. A text of which
they know no term stands in the middle, and is not positive. `judge.classifier: vader` is another experiment: there the
policies would learn from VADER, which then is no second opinion.
"""

import argparse
from pathlib import Path

import numpy as np

from epsilon_dpo.analysis.intervals.win_rates import win_rate
from epsilon_dpo.judging.judges.sentiment import Sentiment, vader, whole_text
from epsilon_dpo.judging.making.sentiment_training import held_out_accuracy
from epsilon_dpo.pipeline.stage.files import Row, read_jsonl

CONFIDENCE = 0.95


def by_prompt(prompts: list[str], values: np.ndarray) -> dict[str, float]:
    """The mean of `values` [n] on each of `prompts` [n]."""
    return {prompt: float(values[[other == prompt for other in prompts]].mean()) for prompt in dict.fromkeys(prompts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path, nargs="?", default=Path(), help="its folder (default: this one)")
    out, classify = parser.parse_args().project / "out", vader()
    labelled = read_jsonl(out / "validate" / "labelled.jsonl")
    found = held_out_accuracy(Sentiment(classify, clip=4.0), labelled, CONFIDENCE)
    print("VADER finds the label of {:.1%} of the held-out texts.\n".format(found["classifier_accuracy"]))
    print("| policy | positive by VADER | more than the reference | without a term that it knows |\n|---|---|---|---|")
    reference: dict[str, float] = {}
    for folder in (out / "reference", *sorted((out / "sample").iterdir())):
        rows: list[Row] = read_jsonl(folder / "samples.jsonl")
        logits = classify([whole_text(row["prompt"], row["response"]) for row in rows])
        prompts, positive = [row["prompt_id"] for row in rows], (logits > 0.0).astype(float)
        rate, means = win_rate(positive, prompts, CONFIDENCE), by_prompt(prompts, positive)
        reference = reference or means
        gains = np.array([means[prompt] - reference[prompt] for prompt in means])
        error = gains.std(ddof=1) / len(gains) ** 0.5
        said = f"{rate.value:.2f} ({rate.low:.2f}–{rate.high:.2f}) | {gains.mean():.3f} ± {error:.3f}"
        print(f"| {folder.name} | {said} | {(logits == 0.0).mean():.2f} |")


if __name__ == "__main__":
    main()
