"""`epsilon-dpo promote RUN` in one call."""

import argparse
from collections.abc import Mapping

from epsilon_dpo.mlflow_writer.registry import CHAMPION, Registry, Version, opened
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Json
from epsilon_dpo.provenance.champion.decision import Decision, decide, name_of
from epsilon_dpo.provenance.champion.recorded import Policy, compared, policy_of
from epsilon_dpo.provenance.champion.weights import BASE
from epsilon_dpo.report.page.tracked import mark_again

SHOWN_DIGITS = 12  # of a digest in a sentence


def promote(asked: argparse.Namespace) -> str:
    """Make a run's policy the champion, if the report can tell it from the one before; returns what was decided.

    Args:
        asked: run, and name (of the registered model).

    Raises:
        UserError: it is not promoted, and why; out/ is not what dvc.lock records; MLflow's registry cannot be used;
            another became the champion while this was decided.
    """
    project, summary = compared()
    policy = policy_of(project, summary, asked.run)
    with opened(asked.name) as registry, registry.decided_alone():
        incumbent = registry.champion()
        if incumbent is not None and incumbent.tags.get("policy_sha256") == policy.sha256:
            # A commit that was named may be gone since, as after a squash or a rebase.
            is_named = incumbent.tags.get("git_commit") in policy.commits
            late = {"git_commit": policy.commit} if policy.commit and not is_named else {}
            late |= {tag: value for tag, value in _base_tags(policy).items() if tag not in incumbent.tags}
            registry.describe(incumbent, _description(incumbent.tags | late, asked.name), late)
            return f"{asked.run} is the champion already: version {incumbent.number} of {asked.name}."
        decision = decide(summary, asked.run, None if incumbent is None else _run_of(summary, incumbent))
        if not decision.promoted:
            stays = "nothing is promoted" if incumbent is None else f"version {incumbent.number} stays the champion"
            raise UserError(f"{stays}: {decision.sentence}.")
        version = _register(registry, policy, incumbent, decision, summary)
    return f"{decision.sentence}. It is the {CHAMPION} now: version {version.number} of {version.name}."


def _run_of(summary: Json, incumbent: Version) -> str:
    """The run of the report that is the champion's policy.

    Raises:
        UserError: the report does not have it, or the version does not say which policy it is.
    """
    sha256 = incumbent.tags.get("policy_sha256")
    if sha256 is None:
        raise UserError(
            f"version {incumbent.number} of {incumbent.name} has the alias {CHAMPION} and no tag policy_sha256, so it "
            "was given by hand; take the alias away, or name another registered model with --name."
        )
    found = name_of(summary, sha256)
    if found is None:
        raise UserError(
            f"the champion (version {incumbent.number}, run {incumbent.tags.get('run')}, policy sha256 "
            f"{sha256[:SHOWN_DIGITS]}…) is none of the policies that out/report compares, and only a comparison on the "
            f"same prompts decides: {_way_on(summary, incumbent)}."
        )
    return found


def _way_on(summary: Json, incumbent: Version) -> str:
    """What to do where the report does not have the champion. `dvc repro` makes it again only if its run was taken out
    of params.yaml: of a run that is there, other data, code or packages have made another policy since."""
    elsewhere = "name another registered model with --name"
    if incumbent.tags.get("run") not in summary["runs"]:
        return f"put its run back into params.yaml and run `dvc repro`, or {elsewhere}"
    return (
        f"its run was trained again and is another policy now, so {elsewhere}, or remove the alias {CHAMPION} from "
        f"{incumbent.name} in MLflow, after which there is no champion to beat"
    )


def _register(
    registry: Registry, policy: Policy, incumbent: Version | None, decision: Decision, summary: Json
) -> Version:
    model = registry.policy(policy.run, policy.sha256)
    if model is None:  # the store was lost, or is another one than that of the results
        mark_again()
        model = registry.policy(policy.run, policy.sha256)
    if model is None:
        raise UserError(
            f"MLflow's store has no row of align@{policy.run} with this policy, to which a version must link; "
            "`python -m epsilon_dpo.report.page.tracked` writes it from out/, if params.yaml is that of the results."
        )
    tags = {
        "run": policy.run,
        "policy_sha256": policy.sha256,
        "dvc_path": policy.path,
        "dvc_out": policy.out,
        "dvc_md5": policy.md5,
        **({"git_commit": policy.commit} if policy.commit else {}),
        **_base_tags(policy),
        "data_sha256": summary["data_sha256"]["eval.jsonl"],
        "decision": decision.sentence,
        **{f"decision.{name}": value for name, value in decision.facts.items()},
    }
    return registry.promote(model, incumbent, tags, _description(tags, registry.name), way_to(tags, registry.name))


def _base_tags(policy: Policy) -> dict[str, str]:
    """Those of a policy, with `base.` before them, of what it is an adapter on: once more for each further base."""
    tags: dict[str, str] = {}
    for depth, base in enumerate(policy.bases, 1):
        own = {"policy_sha256": base.sha256, "dvc_path": base.path, "dvc_out": base.out, "dvc_md5": base.md5}
        tags |= {BASE * depth + tag: value for tag, value in own.items()}
    return tags


def _description(tags: Mapping[str, str], name: str) -> str:
    return f"Promoted because {tags['decision']}.\n\n{way_to(tags, name)}"


def way_to(tags: Mapping[str, str], name: str) -> str:
    """How to reach the weights of a version with these tags, as Markdown."""
    said = f"Weights: `epsilon-dpo champion --name {name} --out DIR` in the project, with a check of their digest."
    if "git_commit" in tags:
        said += f" Without a clone: `dvc get <repository> {tags['dvc_path']} --rev {tags['git_commit']} -o DIR`."
    if base := tags.get(f"{BASE}dvc_path"):
        said += (
            f"\n\nIt is an adapter on `{base}` of the same commit, sha256 `{tags[f'{BASE}policy_sha256']}`: "
            "`epsilon-dpo champion` merges it into that, `dvc get` gives the adapter alone."
        )
    return f"{said}\n\nsha256 of the policy: `{tags['policy_sha256']}`"
