"""Stage `check`: all of params.yaml before anything runs.

In: params.yaml. Out: a constant file, or one sentence per problem: unknown keys, values out of range, blocks that do
not go together, two runs that are the same training. What runs left behind that params.yaml no longer names is removed.
It loads no data and no model. As the last room it may import the params of every other.
"""
