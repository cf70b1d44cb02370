"""`epsilon-dpo noise`: the true win rate against the rate of flipped labels, over several finished pipelines.

In: their out/report/summary.json, one per level of noise. Out: a folder with the figure and its values.
No stage uses it: a pipeline has one level of noise, since all of its trainings read the same pairs.
"""
