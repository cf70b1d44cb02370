"""Several processes for a part of a stage: those that the machine's launcher says.

In: a function, its arguments, a config file of accelerate. Out: what the function returned in each process, and what
rank 0 tracked. Without a launcher the function is called.
It shares out neither rows nor weights: training/loop and sampling/answers do.
"""
