"""Preference optimisation as a DVC pipeline. Start with dvc.yaml: each stage in stages/ is one call into here."""
