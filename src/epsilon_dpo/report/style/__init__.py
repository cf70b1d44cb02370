"""How figures look and what is said of them: colours for the colour-blind, a mark per policy, legends, alt texts.

In: names of runs, a size, values. Out: a matplotlib figure that becomes a PNG file; values as the page prints them.
It draws no data.
"""
