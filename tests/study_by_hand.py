"""A study of one claim and one level, for the tests of study/."""

CLAIM = {
    "id": "spends_more",
    "claim": "It spends more KL.",
    "place": "Figure 5",
    "definition": "KL at the same β",
    "refuted_by": "less",
    "level": "controlled",
    "measure": {"name": "mean_of", "recipe": {"method": "dpo"}, "column": "kl"},
    "expected": {"is": "above", "than": 1.0},
}
LEVELS = {"controlled": {"title": "By hand", "preset": "presets/by-hand.yaml", "seeds": [1, 2, 3], "drawn": "all"}}
