"""What the paper's figures show, for those who cannot see them: the values drawn, printed as in the tables."""

from epsilon_dpo.report.figures.margins import DECREASING, INCREASING
from epsilon_dpo.report.figures.over_optimisation import REWARDS
from epsilon_dpo.report.figures.pareto import Pareto
from epsilon_dpo.report.figures.points import KL, Row
from epsilon_dpo.report.style.alt_text import counted, fitting, movement, nats, span
from epsilon_dpo.report.style.signs import fixed, percent


def pareto_alt(found: Pareto, sft: dict[str, float]) -> str:
    """Of `draw_pareto`: by each scorer the policies' places, how many are dominated, and the largest hypervolume."""
    each, most = [], []
    for scorer, floor in sft.items():
        rows = [row for row in found.points if row["scorer"] == scorer]
        places = [f"{row['run']} {percent(row['win_rate'])} at {nats(row['kl'])}" for row in rows]
        kls, rates = ({row["run"]: row[name] for row in rows} for name in ("kl", "win_rate"))
        verdict = f"{counted(row['dominated'] for row in rows)} dominated"
        volumes = {row["family"]: row["hypervolume"] for row in found.hypervolumes() if row["scorer"] == scorer}
        if volumes:
            verdict += f", hypervolume {span(volumes, lambda x: fixed(x, 3))}"
        start = f"By the {scorer}: SFT {percent(floor)} at 0 nats"
        each.append(f"{start}, {', '.join(places)}; {verdict}.")
        most.append(f"{start}, {len(rows)} policies {span(rates, percent)} at {span(kls, nats)}; {verdict}.")
    return fitting(" ".join(each), " ".join(most))


def dynamics_alt(rows: list[Row], decided: list[Row]) -> str:
    """Of `draw_dynamics`: each metric of the first and the last policy kept of each run, and the last decisions."""
    each, most = [], []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        lines: dict[str, list[float]] = {}
        for row in sorted(rows, key=lambda row: float(row["epoch"])):
            if row["metric"] == metric:
                lines.setdefault(row["run"], []).append(row["value"])
        name, form = ("KL", nats) if metric == KL else (metric, percent)
        each.append(f"{name} {', '.join(f'{run} {form(v[0])} to {form(v[-1])}' for run, v in lines.items())}")
        last = span({run: values[-1] for run, values in lines.items()}, form)
        most.append(f"{name} {movement(lines.values())}, at last {last}")
    # A run has a row per step and kind: the last one stays.
    for kind in dict.fromkeys(row["metric"] for row in decided):
        shares = {row["run"]: row["smoothed"] for row in decided if row["metric"] == kind}
        said = (
            f"β {kind.removeprefix('eps/')} for {span(shares, percent)} of the pairs, in the moving average at its end"
        )
        each, most = [*each, said], [*most, said]
    title = "From the first policy kept to the last"
    return fitting(f"{title}: {'; '.join(each)}.", f"{title}: {'; '.join(most)}.")


def over_optimisation_alt(rows: list[Row], is_taught: bool) -> str:
    """Of `draw_over_optimisation`: both rewards of each family at its largest KL; `is_taught`: there is a teacher."""
    families = dict.fromkeys(row["family"] for row in rows)
    last = {
        scorer: {
            family: max(
                (row for row in rows if (row["family"], row["scorer"]) == (family, scorer)), key=lambda row: row["kl"]
            )
            for family in families
        }
        for scorer in REWARDS
    }
    promised, true = ({family: row["reward"] for family, row in own.items()} for own in last.values())
    judge, truth = last
    each = [
        f"{family} at {nats(last[truth][family]['kl'])} {fixed(promised[family], 2)} and {fixed(true[family], 2)}"
        for family in families
    ]
    title = f"Reward above the reference's at the largest KL, by the {judge} and by the {truth}"
    above = f"the {judge}'s is the higher in {counted(promised[family] > true[family] for family in families)}"
    most = f"{span(promised, nats)}; {span(true, nats)}"
    other = f" The {judge}'s is not the reward that was trained on: there is a teacher." if is_taught else ""
    return fitting(f"{title}: {', '.join(each)}; {above}.{other}", f"{title}: {most}; {above} families.{other}")


def margins_alt(rows: list[Row]) -> str:
    """Of `draw_margins`: the mean log-ratio margin of both groups under each run, and how often a sign decides."""
    title = "Mean log-ratio margin of the pairs by what ε-DPO would decide, nats"
    if not rows:
        return f"{title}: none under any run."
    margins: dict[str, dict[str, float]] = {DECREASING: {}, INCREASING: {}}
    said: dict[str, list[str]] = {}
    for row in rows:
        margins[row["group"]][row["run"]] = row["margin"]
        said.setdefault(row["run"], []).append(f"{fixed(row['margin'], 2)} {row['group']}")
    each = [f"{run} {' and '.join(parts)}" for run, parts in said.items()]
    most = [f"{group} {span(own, lambda x: fixed(x, 2))}" for group, own in margins.items() if own]
    smaller = [margins[INCREASING][run] < margins[DECREASING][run] for run, parts in said.items() if len(parts) == 2]
    verdicts = [f"smaller where increasing in {counted(smaller)}"] if smaller else []
    right = min(row["first_order_agreement"] for row in rows)
    verdicts.append(f"the first-order sign is the decision for at least {percent(right)}")
    return fitting(*(f"{title}: {'; '.join(parts + verdicts)}." for parts in (each, most)))
