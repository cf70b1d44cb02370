"""A policy for others: `epsilon-dpo card RUN`, its model card in the Hub's format, and `epsilon-dpo push RUN REPO`.

In: the comparison of the report and what `whence` knows of the policy, both held against dvc.lock. Out: the README.md
with recipe, data, versions and results with intervals; a repository on the Hub with it and the model's files.
It states no licence that nobody gave, and changes nothing in the project.
"""
