"""`epsilon-dpo forecast`: what a run needs before it runs: memory per GPU, FLOPs, time and disk, stage by stage.

In: params.yaml, the model's config, lengths of out/pairs where they are at hand. Out: a table on the terminal, JSON.
Steps of the stages' own code run on tensors that have shapes and no memory (simulation.py), so that what is counted is
what they would allocate. It loads no weights, uses no GPU and writes no file; dense models only.
"""
