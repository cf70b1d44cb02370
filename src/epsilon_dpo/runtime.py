"""Seeds and threads of a process that computes with torch."""

import torch
from transformers import set_seed
from transformers.utils import logging


def set_up(seed: int, threads: int) -> None:
    """Fix what a result depends on beside its inputs: the random states and the number of threads.

    Float sums depend on the thread count (a retrained SFT model differed between 1 and 2 threads), so it is a number of
    params.yaml and not the machine's choice.
    """
    torch.set_num_threads(threads)
    set_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # of loading and writing shards; training, sampling and scoring show their own
