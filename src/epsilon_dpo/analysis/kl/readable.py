"""Which estimates are a KL where answers were drawn under other probabilities than the policies' own."""

from epsilon_dpo.pipeline.stage.files import Row

OF_CHOSEN = "kl_fwd_data"  # whose answers nobody drew


def readable(metrics: Row, under: str) -> Row:
    """`metrics` without the KLs that are none, for what has no room to say so: a row of MLflow, a column of DVC.

    Args:
        metrics: among others of estimators.summary, whose names begin with `kl_`.
        under: text of `estimators.sampled_under`; empty: all are KLs.
    """
    return {name: x for name, x in metrics.items() if not under or name.startswith(OF_CHOSEN) or name[:3] != "kl_"}
