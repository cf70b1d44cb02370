"""What the page's own figures show, for those who cannot see them: the values drawn, printed as in the tables."""

from collections.abc import Callable

from epsilon_dpo.pipeline.stage.runs import CHOSEN, SFT
from epsilon_dpo.report.page.charts import SCORERS, TITLES, known_scorers
from epsilon_dpo.report.page.charts_training import ACCURACY, CURVES, LOSS, adapted_beta, firm, logs, series
from epsilon_dpo.report.page.control import SCORE
from epsilon_dpo.report.page.results import Row, RunResult
from epsilon_dpo.report.page.tables import beta_decisions
from epsilon_dpo.report.style.alt_text import against_half, ends, fitting, movement, nats, span
from epsilon_dpo.report.style.signs import fixed, interval, percent


def win_rates_alt(policies: list[Row]) -> str:
    """Of `charts.win_rates`: each rate with its interval, and how many intervals of runs leave out a draw."""

    def each(runs: list[Row], name: str) -> str:
        return ", ".join(f"{run['run']} {_rate(run, name)}" for run in runs)

    def most(runs: list[Row], name: str) -> str:
        return f"{len(runs)} runs {span({run['run']: run[name] for run in runs}, percent)}"

    def said(list_rates: Callable[[list[Row], str], str], scorers: list[str]) -> str:
        sentences = []
        for opponent, title in TITLES.items():
            parts = []
            for scorer in scorers:
                name = f"{scorer}/{opponent}"
                runs = [row for row in policies if name in row and row["run"] != SFT]
                verdict = against_half([(run[f"{name}_low"], run[f"{name}_high"]) for run in runs])
                start = "".join(f"SFT {_rate(row, name)}, " for row in policies if name in row and row["run"] == SFT)
                parts.append(f"by the {SCORERS[scorer]} {start}{list_rates(runs, name)}, {verdict}")
            sentences.append(f"{title[0].upper()}{title[1:]}: {'; '.join(parts)}.")
        return " ".join(["Win rates.", *sentences])

    scorers = known_scorers(policies)[::-1]  # the truth first
    return fitting(said(each, scorers), said(most, scorers), said(most, scorers[:1]))


def kl_alt(policies: list[Row], under: str = "") -> str:
    """Of `charts.kl_against_win_rate`: each policy's place; `under` as there."""
    scorers, runs = known_scorers(policies)[::-1], [row for row in policies if row["run"] != SFT]

    def rates(row: Row) -> str:
        return " and ".join(f"{percent(row[f'{scorer}/{CHOSEN}'])} by the {SCORERS[scorer]}" for scorer in scorers)

    title = f"Win rate against the chosen answers and KL(reference ‖ policy){_under(under)}: "
    title += "".join(f"SFT at 0 nats {rates(row)}; " for row in policies if row["run"] == SFT)
    most = [f"{len(runs)} runs at {span({run['run']: run['kl_fwd_rb'] for run in runs}, nats)}"]
    for scorer in scorers:
        won = {run["run"]: run[f"{scorer}/{CHOSEN}"] for run in runs}
        most.append(f"{span(won, percent)} by the {SCORERS[scorer]}")
    each = "; ".join(f"{run['run']} at {nats(run['kl_fwd_rb'])} {rates(run)}" for run in runs)
    return fitting(f"{title}{each}.", f"{title}{', '.join(most)}.")


def control_alt(rows: list[Row], under: str = "") -> str:
    """Of `charts.score_against_kl`: each policy's score and distance; `under` as there."""
    kls = {row["policy"]: row["kl_bound" if "kl_bound" in row else "kl_rev_rb"] for row in rows}
    scores = {row["policy"]: row[SCORE] for row in rows}
    each = [
        f"{row['policy']} {fixed(row[SCORE], 2)} at {'most ' if 'kl_bound' in row else ''}{nats(kls[row['policy']])}"
        for row in rows
    ]
    title = f"Mean P(positive) and KL(policy ‖ reference){_under(under)}"
    bound = ", or upper bounds," if any("kl_bound" in row for row in rows) else ""
    most = f"{len(rows)} policies, {span(scores, lambda x: fixed(x, 2))} at KLs{bound} of {span(kls, nats)}"
    return fitting(f"{title}: {', '.join(each)}.", f"{title}: {most}.")


def training_alt(runs: list[RunResult]) -> str:
    """Of `charts_training.training_curves`: where each metric's firm lines go and end, but for the losses, whose units
    differ; the last metrics are left out where there is no room."""
    parts: dict[str, str] = {}
    for metric in (metric for metric in CURVES if metric != LOSS):
        if lines := {run.name: firm(run, metric)[1].tolist() for run in runs if logs(run, metric)}:
            form = percent if metric == ACCURACY else lambda x: fixed(x, 2)
            last = {name: line[-1] for name, line in lines.items()}
            start = f"{CURVES[metric]} {movement(lines.values())}, at last "
            some = f" ({len(lines)} runs)" if len(lines) < len(runs) else ""
            parts[start + span(last, form) + some] = start + ends(last.values(), form) + some
    title = f"Training curves of {len(runs)} run{'s' if len(runs) > 1 else ''}, moving averages: "
    if not parts:
        return f"{title}the loss of each on a scale of its own."
    short = [f"{title}{'; '.join(list(parts.values())[:some])}." for some in range(len(parts), 0, -1)]
    return fitting(f"{title}{'; '.join(parts)}.", *short)


def beta_alt(runs: list[RunResult]) -> str:
    """Of `charts_training.beta_over_time`: where each beta starts and ends."""
    betas = {run.name: [float(beta) for beta in series(run, adapted_beta(run) or "")[1]] for run in runs}
    each = [f"{name} from {_beta(line[0])} to {_beta(line[-1])}" for name, line in betas.items()]
    last = span({name: line[-1] for name, line in betas.items()}, _beta)
    most = f"β of {len(runs)} runs: {movement(betas.values())}, at last {last}."
    return fitting(f"β from the first step to the last: {', '.join(each)}.", most)


def beta_decisions_alt(runs: list[RunResult]) -> str:
    """Of `charts_training.draw_beta_decisions`: the mean shares, which the table below it has."""
    shares = {run.name: found for run in runs if (found := beta_decisions(run))}
    kinds = ("lowered", "kept", "raised")
    each = [f"{run} {', '.join(f'{percent(own[kind])} {kind}' for kind in kinds)}" for run, own in shares.items()]
    most = [f"{kind} {span({run: own[kind] for run, own in shares.items()}, percent)}" for kind in kinds]
    title = "Shares of the training pairs by what became of their β, means over all steps"
    return fitting(f"{title}: {'; '.join(each)}.", f"{title} of {len(runs)} runs: {'; '.join(most)}.")


def _rate(row: Row, name: str) -> str:
    return f"{percent(row[name])} ({interval(row, name)})"


def _beta(beta: float) -> str:
    return f"{beta:.3g}"


def _under(under: str) -> str:
    return f" (under {under}: not the policies' KL)" if under else ""
