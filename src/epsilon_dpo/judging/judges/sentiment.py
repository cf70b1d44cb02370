"""A sentiment classifier as a judge: P(positive) of the text that prompt and answer make together.

The score of an answer is the logit of P(positive), clipped to ±`clip` nats so that no single text is worth any number
of others, and two answers compare by the difference of their scores. An empty answer has the score of its prompt alone.

Two classifiers. `tfidf`: logistic regression on the TF-IDF weights of one and two tokens in a row, as
making/sentiment_training.py fitted it. `vader` (Hutto and Gilbert 2014): a lexicon and rules, never trained on these
texts, so a second opinion that is not gamed in the same way; its `compound` c, in [-1, 1], is read as P = (1 + c) / 2.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy.special import expit, logit

from epsilon_dpo.judging.judges.interface import Messages, Question, Verdict
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json

VOCABULARY, WEIGHTS = "vocabulary.json", "model.safetensors"
VECTORISER: dict[str, Any] = {"ngram_range": (1, 2), "sublinear_tf": True}
Classifier = Callable[[list[str]], NDArray[np.float64]]  # texts in, the logit of P(positive) of each out, [n]


class Sentiment:
    """A classifier, ready to compare.

    Attributes:
        clip: the largest absolute score, nats.
    """

    def __init__(self, classifier: Classifier, clip: float) -> None:
        self.classifier, self.clip = classifier, clip

    @classmethod
    def load(cls, settings: dict[str, Any], folder: Path) -> "Sentiment":
        """The classifier that `settings` (judge.json) describe, on the files in `folder`.

        Raises:
            UserError: the files are not those of such a classifier.
        """
        return cls(tfidf(folder) if settings["classifier"] == "tfidf" else vader(), settings["clip"])

    def compare(self, questions: list[Question]) -> list[Verdict]:
        """A verdict per question, in the order given; identical answers tie exactly."""
        texts = [(whole_text(prompt, a), whole_text(prompt, b)) for prompt, a, b in questions]
        logits = self._logits([text for both in texts for text in both])
        return [
            self._verdict(question, logits[a], logits[b]) for question, (a, b) in zip(questions, texts, strict=True)
        ]

    def rank(self, prompts: list[Messages], candidates: list[list[str]]) -> list[list[float]]:
        """The scores themselves."""
        texts = [[whole_text(prompt, text) for text in of] for prompt, of in zip(prompts, candidates, strict=True)]
        logits = self._logits([text for of in texts for text in of])
        return [[self._score(logits[text]) for text in of] for of in texts]

    def usage(self) -> dict[str, float]:
        return {}

    def _logits(self, texts: list[str]) -> dict[str, float]:
        """Of each distinct text."""
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self.classifier(distinct).tolist(), strict=True)) if distinct else {}

    def _score(self, logit: float) -> float:
        return min(max(logit, -self.clip), self.clip)

    def _verdict(self, question: Question, a: float, b: float) -> Verdict:
        score_a, score_b = self._score(a), self._score(b)
        return Verdict(
            f_ab=score_a - score_b,
            f_ba=score_b - score_a,
            len_a=len(question.a.strip()),
            len_b=len(question.b.strip()),
            score_a=score_a,
            score_b=score_b,
            probability_a=float(expit(a)),
            probability_b=float(expit(b)),
        )


def whole_text(prompt: Messages, answer: str) -> str:
    """What the user began and the answer goes on with, as one text."""
    return " ".join(part for part in (prompt[-1]["content"].strip(), answer.strip()) if part)


def tfidf(folder: Path) -> Classifier:
    """The classifier in `folder`: VOCABULARY, a list of terms, and WEIGHTS with `idf` and `coefficients`, [terms] each,
    and `intercept`, [1].

    Raises:
        UserError: a file is missing or damaged, or holds the weights of more than one logit.
    """
    try:
        terms, weights = read_json(folder / VOCABULARY), load_file(folder / WEIGHTS)
        idf, coefficients, intercept = (weights[name] for name in ("idf", "coefficients", "intercept"))
    except (OSError, ValueError, KeyError, SafetensorError):
        raise UserError(f"{folder} holds no sentiment classifier of this version; `dvc repro` makes it anew.") from None
    if coefficients.shape != (len(terms),) or idf.shape != (len(terms),) or intercept.shape != (1,):
        raise UserError(
            f"{folder / WEIGHTS} has coefficients of shape {list(coefficients.shape)} for {len(terms)} terms; a "
            "sentiment classifier has one logit, that of positive against negative."
        )
    from sklearn.feature_extraction.text import TfidfVectorizer  # here, because importing it takes seconds

    vectoriser = TfidfVectorizer(**VECTORISER, vocabulary=terms)
    vectoriser.idf_ = idf
    return lambda texts: np.asarray(vectoriser.transform(texts) @ coefficients + intercept[0], dtype=np.float64)


def vader() -> Classifier:
    """VADER's rules and lexicon, which come with its package."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyser = SentimentIntensityAnalyzer()

    def logits(texts: list[str]) -> NDArray[np.float64]:
        compound = np.array([analyser.polarity_scores(text)["compound"] for text in texts], dtype=np.float64)
        return np.asarray(logit(np.clip((1.0 + compound) / 2.0, 1e-4, 1.0 - 1e-4)))  # it is rounded to 1e-4

    return logits
