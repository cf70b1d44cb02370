"""What stages/ranking.py reads; the stage has no parameters of its own."""

from epsilon_dpo.pipeline.stage.params import Strict, Threads


class RankingView(Strict):
    threads: Threads
