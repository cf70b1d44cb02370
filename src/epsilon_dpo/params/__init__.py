"""The typed form of params.yaml: one small file per block, so that a stage depends only on the blocks it reads."""
