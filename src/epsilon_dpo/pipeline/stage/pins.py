"""The packages whose code decides a stage's output: declared in dvc.yaml at the versions of pins.yaml, and checked.

DVC runs a stage again when such a version changes in the file, and cannot see which one is installed: so a stage
refuses to run with another, or dvc.lock would say that the one of the file made the result.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.fingerprint import declared_pins


def require_pins(entry: dict[str, Any]) -> None:
    """Compare what is installed with the pins that `entry`, of dvc.yaml, declares.

    A local label says how a package was built and not what it is: torch 2.13.0+cpu is 2.13.0.

    Raises:
        UserError: a package is absent or has another version than pins.yaml says.
    """
    for package, pinned in declared_pins(entry).items():
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "not installed"
        if found.partition("+")[0] != pinned:
            raise UserError(
                f"{package} is {found if found == 'not installed' else f'{found} here'}, and pins.yaml says {pinned}, "
                "on which this stage's result depends; `rm -f .venv/.ready && make repro` installs the pins; to "
                'upgrade follow docs/howto.md, "Upgrading a package".'
            )
