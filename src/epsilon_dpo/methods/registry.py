"""Methods by name: `method: dpo` in params.yaml is the class `METHOD` of methods/dpo.py."""
