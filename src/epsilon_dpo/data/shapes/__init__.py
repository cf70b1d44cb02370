"""Shapes: how published sets of preference data write one pair, and how each becomes a pair of ours.

In: rows of a file as plain values. Out: `recognise` (recognition.py) names the shape of a file from its first rows, and
`Reading.read` gives the pairs of a row as entire dialogues, or why there is none.
It opens no file and guesses no meaning: what two shapes could mean, or none, is refused with the columns that it saw.
"""
