"""epsilon-dpo: preference optimisation as a DVC pipeline. Start with dvc.yaml; each stage in stages/ is one call into here."""
