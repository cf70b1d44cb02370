"""Where and how a process computes: device, seeds, threads, memory.

In: a seed and a number of threads. Out: torch set up so that the same machine gives the same bytes; models moved to the
GPU if there is one.
It does not choose a precision and does not distribute: `bf16` belongs to a training, several processes to launch/.
"""
