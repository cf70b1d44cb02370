"""Stage `tournament`: every run against every other, and all of them on one scale.

In: the runs' samples, the judge, the records of score and controls. Out: Bradley-Terry strengths with intervals.
It judges nothing twice: games against SFT and the chosen answers are those of score and controls.
"""
