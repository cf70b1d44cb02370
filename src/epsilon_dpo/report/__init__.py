"""The comparison of the runs: read the outputs, say what they show, draw it, put it on one page."""
