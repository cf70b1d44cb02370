"""One file per preference-optimisation method; interface.py says what a method is, registry.py finds it by its name."""
