"""Fetching an output that dvc.lock records into DVC's cache, and why a remote does not give it.

DVC itself takes a remote that is away, a folder that is not mounted say, for one that does not have the file.
"""

import logging
from pathlib import Path

from dvc.data_cloud import Remote
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.hash_info import HashInfo

from epsilon_dpo.pipeline.observability.errors import UserError, first_line
from epsilon_dpo.provenance.graph.project import said_plainly
from epsilon_dpo.provenance.whence.content import Cache

WANTED = "the champion's weights are neither in out/ nor in DVC's cache, and not fetched"


def fetch(root: Path, md5: str) -> None:
    """Fetch the output with this md5, a folder, into the cache of the project `root`: first the list of its files.

    Raises:
        UserError: there is no remote, it cannot be read, or it lacks the output or a file of it.
    """
    for library in ("dvc", "dvc_data", "dvc_objects"):  # which log a traceback for each file
        logging.getLogger(library).setLevel(logging.CRITICAL)
    with said_plainly():
        repo = Repo(str(root))
    try:
        repo.cloud.get_remote_odb(command="pull")  # which refuses a remote that keeps files by name and not by content
        remote = repo.cloud.get_remote(command="pull")
    except (DvcException, ImportError) as error:  # an ImportError names the package that a kind of remote needs
        raise UserError(f"{WANTED}: {first_line(error)}.") from None
    cache = Cache(root)
    if cache.file(md5) is None:
        _require(remote, md5)
        _pull(repo, [md5])
    absent = [of_file for of_file in (cache.members(md5) or {md5: md5}).values() if cache.file(of_file) is None]
    _pull(repo, absent)
    for of_file in absent:
        if cache.file(of_file) is None:
            _require(remote, of_file)
            raise UserError(f"{WANTED}: {of_file} did not arrive whole from {_name(remote)}; try again.")


def _pull(repo: Repo, md5s: list[str]) -> None:
    try:
        repo.cloud.pull([HashInfo("md5", md5) for md5 in md5s])
    except Exception as error:  # whatever the libraries of the kinds of remotes raise, as in _require
        raise UserError(f"{WANTED}: DVC's remote fails: {first_line(error)} ({type(error).__name__}).") from None


def _require(remote: Remote, md5: str) -> None:
    """Read the first byte of the object with this md5.

    Raises:
        UserError: the remote cannot be read, or does not have it.
    """
    missing = (
        f"{WANTED}: {md5} is not in {_name(remote)}; where the champion was promoted, `dvc push --all-commits` "
        "sends it there, if a commit's dvc.lock and DVC's cache still have it."
    )
    try:
        if remote.fs.protocol == "local" and not Path(remote.path).is_dir():
            raise NotADirectoryError(f"{remote.path} is no folder on this machine; mount or name the right one")
        remote.odb.fs.fs.cat_file(remote.odb.oid_to_path(md5), start=0, end=1)
    except FileNotFoundError as error:
        if "bucket" not in str(error):
            raise UserError(missing) from None
        reason: Exception = error
    except Exception as error:
        reason = error
    else:
        return
    raise UserError(
        f"{WANTED}: {_name(remote)} cannot be read: {first_line(reason)} ({type(reason).__name__}); check the "
        "network, the credentials and `dvc remote list`."
    )


def _name(remote: Remote) -> str:
    return f"DVC's remote {remote.name!r} ({remote.fs.unstrip_protocol(remote.path)})"
