"""Training a sentiment classifier on labelled texts: logistic regression on TF-IDF weights, by scikit-learn.

Terms are one and two tokens in a row that occur in two texts at least; the regression is weakly regularised. On short
reviews this finds more than three quarters of the held-out labels in seconds. The files hold no pickle and the same
texts give the same bytes.
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from epsilon_dpo.analysis.intervals.win_rates import win_rate
from epsilon_dpo.judging.judges.sentiment import VECTORISER, VOCABULARY, WEIGHTS, Sentiment
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row, write_json

MIN_TEXTS, INVERSE_PENALTY, ITERATIONS = 2, 10.0, 1000
TRAINING = "classifier"  # the part that is trained on; every other one is held out


def train_tfidf(labelled: list[Row], out: Path) -> int:
    """Fit the classifier on the texts of part `classifier` and write its files to `out`.

    Args:
        labelled: rows of out/validate/labelled.jsonl.

    Returns:
        the number of texts that it was fitted on.

    Raises:
        UserError: there are no such texts, all have one label, or no term occurs in two of them.
    """
    rows = [row for row in labelled if row["part"] == TRAINING]
    labels = sorted({row["label"] for row in rows})
    if labels != [0, 1]:
        raise UserError(
            f"The {len(rows)} texts that judge.source: sentiment is trained on have the labels {labels}; it needs both "
            "negative (0) and positive (1) ones, and no other: check fetch.file and fetch.classifier_share."
        )
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    vectoriser = TfidfVectorizer(**VECTORISER, min_df=MIN_TEXTS)
    try:
        features = vectoriser.fit_transform([row["text"] for row in rows])
    except ValueError:
        raise UserError(
            f"In the {len(rows)} texts that judge.source: sentiment is trained on, no term occurs twice; add texts."
        ) from None
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=ITERATIONS)
    with threadpool_limits(1):  # sums in another order would be other bytes
        model.fit(features, [row["label"] for row in rows])
    write_json(out / VOCABULARY, vectoriser.get_feature_names_out().tolist())
    weights: dict[str, Any] = {"idf": vectoriser.idf_, "coefficients": model.coef_[0], "intercept": model.intercept_}
    save_file({name: np.ascontiguousarray(array, dtype=np.float64) for name, array in weights.items()}, out / WEIGHTS)
    (out / WEIGHTS).chmod(0o644)  # safetensors makes it private to the user
    return len(rows)


def held_out_accuracy(judge: Sentiment, labelled: list[Row], confidence: float) -> dict[str, float]:
    """`classifier_accuracy` with its interval: the share of held-out texts whose label the sign of the score tells.

    Args:
        labelled: as above; nothing is found where no text is held out.
    """
    rows = [row for row in labelled if row["part"] != TRAINING]
    if not rows:
        return {}
    scores = judge.rank([[{"role": "user", "content": row["text"]}] for row in rows], [[""]] * len(rows))
    right = [
        0.5 if score == 0.0 else float((score > 0.0) == bool(row["label"]))
        for (score,), row in zip(scores, rows, strict=True)
    ]
    return win_rate(right, [row["id"] for row in rows], confidence).named("classifier_accuracy")
