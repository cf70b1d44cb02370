"""What stages/ranking.py reads; the stage has no numbers of its own."""

from epsilon_dpo.params.strict import Strict, Threads


class RankingView(Strict):
    threads: Threads
