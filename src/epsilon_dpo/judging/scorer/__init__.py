"""Stage `scorer`: what gives an online run's own answers their scores; nothing by default.

In: the data's true reward or a judge that scores single answers; out/pairs and the texts behind it. Out: out/scorer,
from which alone answers can be scored, and the distinct prompts of both splits, as text and token ids.
It trains nothing and scores nothing yet: `align@RUN` does that with each answer it draws. Offline runs read none of it,
so that without an online run its output is constant, whatever the judge is.
"""
