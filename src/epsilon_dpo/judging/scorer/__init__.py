"""Stage `scorer`: what gives an online run's own answers their scores; nothing by default.

In: the data's true reward or a judge that scores single answers; out/pairs and the texts behind it. Out: in
out/scorer a folder for each method; an online one's has what scores answers, and the distinct prompts of both splits.
It trains nothing and scores nothing yet: `align@RUN` does that with each answer it draws. The folder of a method that
learns from given pairs is constant, whatever the scorer and the judge are.
"""
