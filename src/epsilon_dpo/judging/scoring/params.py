"""`score`: judging a policy's answers against the chosen ones and the reference's; it has no block of its own."""

from epsilon_dpo.pipeline.stage.params import Confidence, Seed, Strict, Threads


class ScoreView(Strict):
    """What stages/score.py and stages/controls.py read."""

    seed: Seed
    threads: Threads
    confidence: Confidence
