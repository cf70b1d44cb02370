"""An MLflow server for several people: rows in Postgres, artifacts in a bucket, a login.

`python docker/mlflow_server.py` reads its settings from the environment, makes what is missing (the bucket, the tables,
the first user) and becomes the server. compose.yaml runs it in the project's image; docs/server.md has it by hand.

| variable | |
|---|---|
| MLFLOW_BACKEND_STORE_URI | `postgresql+psycopg2://USER:PASSWORD@HOST/DATABASE`; login and rows share it |
| MLFLOW_ARTIFACTS_DESTINATION | `s3://BUCKET/FOLDER`; only the server has its keys, clients send artifacts through it |
| MLFLOW_S3_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY | of the store; the first not for Amazon's own |
| MLFLOW_AUTH_ADMIN_USERNAME, MLFLOW_AUTH_ADMIN_PASSWORD | of the first user, made once |
| MLFLOW_FLASK_SERVER_SECRET_KEY | what signs the forms; the same for all servers of one store |
| ALLOWED_HOSTS | what browsers and clients call it, such as `mlflow:*,localhost:*`; others are refused |
| ALLOWED_ORIGINS | of the page under another name, such as `https://mlflow.example.org` (default: localhost) |
| HOST, PORT | where it listens (default 127.0.0.1, 5000) |
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

NEEDED = (
    *("MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION", "MLFLOW_FLASK_SERVER_SECRET_KEY", "ALLOWED_HOSTS"),
    *("MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD"),
)
# Who is logged in may report to any experiment; to delete one takes its maker or the admin. A password is hashed once a
# minute and not per request, of which a stage sends dozens; the one worker hears of a changed password at once.
LOGIN = """[mlflow]
default_permission = EDIT
database_uri = {database}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


def refusal(environment: dict[str, str]) -> str | None:
    """What is wrong with the settings, in a sentence; None: nothing that is seen without a connection."""
    missing = [name for name in NEEDED if not environment.get(name)]
    if missing:
        return f"not set: {', '.join(missing)}; docker/mlflow_server.py says what they are."
    if urlsplit(environment["MLFLOW_BACKEND_STORE_URI"]).scheme == "postgresql":
        return (
            "MLFLOW_BACKEND_STORE_URI begins with postgresql://, which SQLAlchemy 2.1 takes for psycopg 3; "
            "write postgresql+psycopg2://."
        )
    if not environment["MLFLOW_ARTIFACTS_DESTINATION"].startswith("s3://"):
        return "MLFLOW_ARTIFACTS_DESTINATION is not of the form s3://BUCKET/FOLDER."
    return None


def make_bucket(destination: str, endpoint: str | None) -> None:
    import boto3
    from botocore.exceptions import ClientError

    bucket = urlsplit(destination).netloc
    store = boto3.client("s3", endpoint_url=endpoint or None)
    try:
        store.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        store.create_bucket(Bucket=bucket)


def upgrade(database: str) -> None:
    """The tables of this version of MLflow, made or brought up to date.

    What `mlflow db upgrade` does, with the address and its password where other users of the machine do not see them.
    """
    command = "import os; from mlflow.db import upgrade; upgrade.main([os.environ['DATABASE']])"
    subprocess.run([sys.executable, "-c", command], env=os.environ | {"DATABASE": database}, check=True)


def main() -> None:
    environment = dict(os.environ)
    if wrong := refusal(environment):
        sys.exit(f"ERROR: {wrong}")
    database = environment["MLFLOW_BACKEND_STORE_URI"]
    make_bucket(environment["MLFLOW_ARTIFACTS_DESTINATION"], environment.get("MLFLOW_S3_ENDPOINT_URL"))
    upgrade(database)
    login = Path(tempfile.mkdtemp()) / "login.ini"  # for as long as the server; only this user may read the folder
    login.write_text(LOGIN.format(database=database.replace("%", "%%")), "utf-8")
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(login)
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # jobs on traces, which nothing here writes
    where = ("--host", environment.get("HOST") or "127.0.0.1", "--port", environment.get("PORT") or "5000")
    server = ("mlflow", "server", "--app-name", "basic-auth", "--workers", "1", *where)
    origins = environment.get("ALLOWED_ORIGINS")  # a browser names its page's in what it sends, also to its own server
    allowed = (
        "--allowed-hosts",
        environment["ALLOWED_HOSTS"],
        *(("--cors-allowed-origins", origins) if origins else ()),
    )
    os.execvp(server[0], [*server, *allowed])


if __name__ == "__main__":
    main()
