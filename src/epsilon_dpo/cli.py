"""The command `epsilon-dpo`: what is asked beside the pipeline, which `dvc repro` runs."""

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from epsilon_dpo.pipeline.observability.child import NO_TELEMETRY
from epsilon_dpo.pipeline.observability.errors import (
    UserError,
    discard_stdout,
    let_stdout_take_all,
    printable,
    redacted,
)

PARAMS = Path("params.yaml")
REGISTERED = "epsilon-dpo-policy"


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _amount(text: str) -> float:
    with suppress(ValueError):
        if 0.0 < (amount := float(text)) < math.inf:
            return amount
    raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")


def _share(text: str) -> float:
    with suppress(argparse.ArgumentTypeError):
        if (share := _amount(text)) <= 1.0:
            return share
    raise argparse.ArgumentTypeError(f"{text!r} is no share: above 0 and at most 1")


def _later(name: str) -> Callable[[argparse.Namespace], str]:
    """The function `module:name`, imported when it is called: dvc, torch or mlflow take seconds, not for `--help`."""
    return lambda asked: str(resolve_name(name)(asked))


def _add_inspect(commands: Any) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="say what a preference dataset holds, and print the blocks of params.yaml that read it",
        description="Reads all rows of DATA, holds a sample against the contract, and prints the blocks of params.yaml "
        "that fit. It changes no file.",
    )
    inspect.add_argument(
        "data", help="a file, a folder or a quoted glob of files below data/; or with --revision a Hub dataset"
    )
    inspect.add_argument("--revision", help="commit of the Hub dataset (40 hexadecimal digits)")
    inspect.add_argument("--name", help="the dataset's configuration, where it has several")
    inspect.add_argument("--split", help="the split to train on (default: train, or the only one)")
    inspect.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="OURS=THEIRS",
        help="after DATA: prompt=question chosen=good, say",
    )
    inspect.add_argument("--pairs", choices=("best_worst", "all"), default="best_worst", help="of n scored answers")
    inspect.add_argument("--rows", type=_positive, default=1000, help="rows held against the contract (default 1000)")
    inspect.add_argument("--params", type=Path, default=PARAMS, help="the file whose base and limits are used")
    inspect.set_defaults(do=_later("epsilon_dpo.inspection.inspect:inspected"))


def _noise(asked: argparse.Namespace) -> str:
    from epsilon_dpo.report.noise.levels import write_levels  # imports matplotlib

    rows = write_levels(asked.summaries, asked.out)
    found = len({row["flip_rate"] for row in rows})
    return f"{len(rows)} win rates at {found} levels of noise: {asked.out / 'noise.png'}, {asked.out / 'noise.csv'}"


def _add_noise(commands: Any) -> None:
    noise = commands.add_parser(
        "noise",
        help="draw the true win rates of several finished pipelines against the noise of their labels",
        description="Reads a copy of out/report/summary.json for each level of noise, and writes OUT/noise.png and "
        "OUT/noise.csv. The pipelines must differ in fetch.annotators and fetch.outliers alone.",
    )
    noise.add_argument("out", type=Path, metavar="OUT", help="a folder to make")
    noise.add_argument("summaries", type=Path, nargs="+", metavar="SUMMARY", help="copies of out/report/summary.json")
    noise.set_defaults(do=_noise)


def _whence(asked: argparse.Namespace) -> str:
    from epsilon_dpo.provenance.whence.asked import answered

    return answered(asked.file, asked.json)


def _add_whence(commands: Any) -> None:
    whence = commands.add_parser(
        "whence",
        help="say where a file or folder comes from: stage, commit, params, data, environment, parents",
        description="Looks for the content of FILE, whatever it is called by now, in dvc.lock of the workspace and of "
        "all commits, branches, tags and experiments. Exit code 1: it is in none of them, and no manifest beside "
        "its weights names them. It changes no file.",
    )
    whence.add_argument("file", type=Path, metavar="FILE", help="a model folder, or any file or folder of out/")
    whence.add_argument("--json", action="store_true", help="all that is known, as JSON")
    whence.set_defaults(do=_whence)


def _add_forecast(commands: Any) -> None:
    forecast = commands.add_parser(
        "forecast",
        help="say what a run needs before it runs: memory per GPU, FLOPs, time and disk of each stage",
        description="Needs params.yaml and the model's config.json, but no weights: it simulates a step of each "
        "training on tensors that take no memory. It counts the pairs and tokens of out/pairs if they were made from "
        "this params.yaml and neither --params, --pairs nor --model-config is given; otherwise each text is as long as "
        "params.yaml allows.",
    )
    forecast.add_argument("--params", type=Path, default=PARAMS, metavar="FILE", help="such as presets/NAME.yaml")
    forecast.add_argument("--model-config", type=Path, metavar="FILE", help="config.json, if the model is not here")
    forecast.add_argument("--pairs", type=_positive, metavar="N", help="training pairs, if not fetched yet")
    forecast.add_argument("--gpus", type=_count, default=1, metavar="N", help="0: the CPU (default 1)")
    forecast.add_argument("--gpu-memory", type=_amount, metavar="GB", help="of one GPU: say whether the run fits")
    forecast.add_argument("--peak-tflops", type=_amount, metavar="T", help="of one GPU in bf16 (default: an H100's)")
    forecast.add_argument("--mfu", type=_share, default=0.35, metavar="F", help="share of the peak (default 0.35)")
    forecast.add_argument(
        "--shard", choices=("fsdp", "none"), default="fsdp", help="several GPUs shard the weights, or each holds all"
    )
    forecast.add_argument("--json", action="store_true", help="bytes, FLOPs and hours, for machines")
    forecast.set_defaults(do=_later("epsilon_dpo.forecast.forecast:forecast"))


def _add_plan(commands: Any) -> None:
    plan = commands.add_parser(
        "plan",
        help="say which stages `dvc repro` would run, why, and what that costs",
        description="Compares the project with dvc.lock and changes nothing. `run`: it has a cause of its own; "
        "`may run`: it follows a stage that runs; `from cache`: DVC's cache holds the result of an earlier run.",
    )
    plan.add_argument("targets", nargs="*", metavar="TARGET", help="as of `dvc repro` (default: all of dvc.yaml)")
    plan.add_argument(
        "--assert-only",
        nargs="+",
        metavar="GLOB",
        help="exit with 1 if a stage that matches none would or may run",
    )
    plan.add_argument("--json", action="store_true", help="all stages, for machines")
    plan.set_defaults(do=_later("epsilon_dpo.provenance.plan.plan:plan"))


def _add_verify(commands: Any) -> None:
    verify = commands.add_parser(
        "verify",
        help="run stages again in a clean folder and compare with what dvc.lock records",
        description="Each stage runs from the inputs that dvc.lock records, without DVC's run cache, and each file "
        "that it makes is compared: bit-equal, equal within tolerance or different, with the first step, tensor or row "
        "and the likely cause. Writes certificates/ID.json, which the report shows. Exit code 1: not all reproduced.",
    )
    verify.add_argument("stages", nargs="*", metavar="STAGE", help="such as sft align@dpo, or align (default: all)")
    verify.add_argument("--sample", type=_positive, metavar="N", help="draw N of them, by the content of dvc.lock")
    verify.add_argument("--folder", type=Path, metavar="DIR", help="an empty folder to work in, which is kept")
    verify.add_argument(
        "--no-trials", dest="trials", action="store_false", help="look for the cause without running a stage once more"
    )
    verify.set_defaults(do=_later("epsilon_dpo.provenance.verify.verify:verify"))


def _add_promotion(commands: Any) -> None:
    promote = commands.add_parser(
        "promote",
        help="make the policy of a run the champion in MLflow's registry, if it beats the last one in the report",
        description="Decides by the comparison in out/report, which must be what dvc.lock records: wins over the "
        "chosen answers, by the true reward where it is known, on the same prompts, with the interval for all pairs of "
        "runs together. The first champion has to beat SFT. Code 1: not promoted, and why.",
    )
    promote.add_argument("run", metavar="RUN", help="a run of params.yaml")
    champion = commands.add_parser(
        "champion",
        help="say which policy is the champion and where its weights are, or fetch them",
        description="With --out the weights come from out/, DVC's cache or its remote, and their sha256 is checked.",
    )
    champion.add_argument("--out", type=Path, metavar="DIR", help="a folder to make, for the weights")
    for command in (promote, champion):
        command.add_argument("--name", default=REGISTERED, help=f"of the registered model (default {REGISTERED})")
    promote.set_defaults(do=_later("epsilon_dpo.provenance.champion.promote:promote"))
    champion.set_defaults(do=_later("epsilon_dpo.provenance.champion.weights:champion"))


def _add_publication(commands: Any) -> None:
    card = commands.add_parser(
        "card",
        help="print a run's model card in the Hub's format: recipe, data, versions, results with intervals",
        description="Describes what is in out/report, which must be what dvc.lock records. Asks the Hub for the "
        "licences of a base model and of data that came from there.",
    )
    push = commands.add_parser(
        "push",
        help="send a run's policy with its model card to the Hub",
        description="In one commit, in which every other file of REPO is deleted. Creates the repository if there is "
        "none yet, private unless --public is given.",
    )
    for command in (card, push):
        command.add_argument("run", metavar="RUN", help="a run of params.yaml")
        command.add_argument("--licence", metavar="ID", help="of the policy, as the Hub names it: apache-2.0, gemma …")
    card.set_defaults(do=_later("epsilon_dpo.provenance.card.push:show_card"))
    push.add_argument("repo", metavar="REPO", help="owner/name")
    push.add_argument("--public", action="store_true", help="make a new repository public")
    push.set_defaults(do=_later("epsilon_dpo.provenance.card.push:push"))


def _gather(asked: argparse.Namespace) -> str:
    from epsilon_dpo.pipeline.jobs.gather import gather

    return gather(asked.locks)


def _add_gather(commands: Any) -> None:
    gather = commands.add_parser(
        "gather",
        help="record in dvc.lock what copies of the project recorded in theirs, such as a cluster's jobs",
        description="Takes over their entries, and none of their outputs, which are in DVC's cache or its remote.",
    )
    gather.add_argument("locks", type=Path, nargs="+", metavar="LOCK", help="such as scratch/jobs/report/dvc.lock")
    gather.set_defaults(do=_gather)


def _study(asked: argparse.Namespace) -> str:
    from epsilon_dpo.study.collect import collect
    from epsilon_dpo.study.page import show, write_page
    from epsilon_dpo.study.replicate import run_level
    from epsilon_dpo.study.summary import shown

    if asked.what == "run":
        return run_level(asked.level)
    if asked.what == "collect":
        policies, marked, address = collect(asked.level, asked.project)
        added = f"{policies} policies of {asked.project} are among the results of {asked.level}"
        store = os.environ.get("MLFLOW_TRACKING_URI") or asked.project / "mlruns"
        return f"{added}; {marked} rows are marked in {redacted(str(store))}{shown(address)}"
    return f"the page is written: {write_page()}{shown(show())}"


def _add_study(commands: Any) -> None:
    study = commands.add_parser(
        "study",
        help="replicate the paper: run a level of study/claims.yaml, collect its results, write docs/replication.md",
        description="A level's replicates are its preset under several seeds; params.yaml must be a copy of it.",
    )
    whats = study.add_subparsers(dest="what", required=True, metavar="WHAT")
    run = whats.add_parser("run", help="run the replicates of LEVEL that have no results yet, one after the other")
    collect = whats.add_parser("collect", help="add a finished replicate, run elsewhere, to the results of LEVEL")
    for command in (run, collect):
        command.add_argument("level", metavar="LEVEL", help="of study/claims.yaml, such as controlled")
    collect.add_argument("project", type=Path, metavar="FOLDER", help="a clone in which the preset is reproduced")
    whats.add_parser("page", help="write docs/replication.md from study/")
    study.set_defaults(do=_study)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do as `arguments` say (None: those of the process); a `UserError` is one line, and exit code 1."""
    let_stdout_take_all()  # a help text, too, has more than ASCII
    parser = argparse.ArgumentParser(prog="epsilon-dpo", description="What is asked beside `dvc repro`.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        *(_add_inspect, _add_noise, _add_whence, _add_plan, _add_forecast),
        *(_add_verify, _add_promotion, _add_publication, _add_gather, _add_study),
    ):
        add(commands)
    asked = parser.parse_args(arguments)
    for variable, value in NO_TELEMETRY.items():
        os.environ.setdefault(variable, value)
    try:
        from epsilon_dpo.pipeline.stage.disk import disk_in_a_sentence  # imports pydantic: not for `--help`

        with disk_in_a_sentence():
            print(printable(asked.do(asked)), flush=True)  # it may quote a dataset
    except BrokenPipeError:  # `| head` has read enough; Python would say so once more when it flushes at the end
        discard_stdout()
    except KeyboardInterrupt:  # what ran below it has said so
        sys.exit(128 + signal.SIGINT)
    except UserError as error:
        sys.exit(f"ERROR: {error}")


if __name__ == "__main__":
    main()
