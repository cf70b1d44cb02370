"""The rows of a study's replicates, marked so that the page shows them as one comparison (view.py)."""

from collections.abc import Mapping

from epsilon_dpo.mlflow_writer import pending
from epsilon_dpo.mlflow_writer.rows import Rows
from epsilon_dpo.mlflow_writer.view import STUDY, STUDY_SEED, study_tag

BY = f"{STUDY}.by"  # the project that marked a row; None: an earlier version did


def mark_replicate(level: str, seed: int, policies: Mapping[str, str]) -> int:
    """Tag the rows of trainings with their study's level and seed, and take the tags from other rows that had these;
    the page's menu gets a view of the level.

    Args:
        policies: sha256 of each policy, by run.

    Returns:
        how many of them the store has; those of a clone with a store of its own are not here.
    """
    rows = Rows()
    for run_id, by in rows.search(f"tags.{STUDY} = '{level}' and tags.{STUDY_SEED} = '{seed}'", BY).items():
        if by is None or pending.is_ours(by):  # on a shared server another project has a study of its own
            rows.client.delete_tag(run_id, STUDY)
    found = [row for run, sha256 in policies.items() if (row := rows.training(run, sha256))]
    for row in found:
        rows.client.set_tag(row.info.run_id, STUDY_SEED, str(seed))
        rows.client.set_tag(row.info.run_id, BY, pending.project())
        rows.client.set_tag(row.info.run_id, STUDY, level)
    if found:
        rows.client.set_experiment_tag(rows.store.experiment, *study_tag(level))
    return len(found)
