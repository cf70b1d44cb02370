"""One thin file per stage of dvc.yaml: read params and inputs, one call into src/epsilon_dpo, write outputs."""
