"""Win rates compared: between runs, across seeds, at equal length and at equal KL."""
