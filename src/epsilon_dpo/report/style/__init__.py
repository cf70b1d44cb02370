"""How figures look: colours for the colour-blind, a mark per policy, legends.

In: names of runs, a size. Out: a matplotlib figure that becomes a PNG file.
It draws no data.
"""
