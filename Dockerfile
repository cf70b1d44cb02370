# The default pipeline in an image: `docker build -t epsilon-dpo . && docker run --rm epsilon-dpo` runs `dvc repro` offline.
# Release builds pin the base by digest: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:<digest>
# (No "# syntax=" line: it would make BuildKit pull a frontend image.)
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# Empty unless the builder passes --build-context wheels=DIR, a local wheelhouse.
FROM scratch AS wheels

FROM ${PYTHON_IMAGE} AS build
# Empty: the pin of requirements.txt.
ARG TORCH_SPEC=""
# PyTorch's CPU index, for a small image: --build-arg TORCH_INDEX_URL=<url>. Read for torch only.
ARG TORCH_INDEX_URL=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_CACHE_DIR=/var/cache/pip \
    PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv
COPY requirements.txt /tmp/requirements.txt
# By pip, which reads the secrets and compiles what is never compiled later (PYTHONDONTWRITEBYTECODE), and not by uv.
# The pins are complete: nothing is left to resolve.
# The secrets are a proxy's pip.conf and CA bundle where there is one; they never reach a layer.
RUN --mount=type=cache,target=/var/cache/pip \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    pip install --find-links /wheels ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "${TORCH_SPEC:-$(grep '^torch==' /tmp/requirements.txt)}" && \
    pip install --find-links /wheels --no-deps -r /tmp/requirements.txt && \
    pip check
# So that the image is also the MLflow server of compose.yaml, of the very version that its clients are.
COPY docker/requirements-server.txt /tmp/
RUN --mount=type=cache,target=/var/cache/pip \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    pip install --find-links /wheels --no-deps -r /tmp/requirements-server.txt && \
    pip check

FROM ${PYTHON_IMAGE} AS runtime
ARG APP_UID=10001
# gcc: on a GPU Triton compiles its launcher with it, in SFT's fused head.
RUN apt-get update && \
    apt-get install -y --no-install-recommends gcc git libc6-dev tini && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --create-home --uid "${APP_UID}" app && \
    install -d -o app -g app /workspace
COPY --from=build /opt/venv /opt/venv
COPY docker/mlflow_server.py docker/mlflow_migrate.py /opt/server/
COPY docker/entry.sh /opt/
# As in an environment where the project is installed; here the sources lie in /workspace, which a volume may replace.
RUN printf '#!/bin/sh\nexec python -m epsilon_dpo.cli "$@"\n' >/usr/local/bin/epsilon-dpo && chmod 755 /usr/local/bin/epsilon-dpo
# USER: DVC and MLflow ask for a name, and `--user` may be a number that the image's passwd does not know.
ENV PATH=/opt/venv/bin:$PATH \
    USER=app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/workspace/src \
    DVC_NO_ANALYTICS=1 \
    MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /workspace
COPY --chown=app:app requirements.txt pyproject.toml README.md LICENSE dvc.yaml params.yaml pins.yaml .dvcignore ./
COPY --chown=app:app .dvc ./.dvc
COPY --chown=app:app mlruns ./mlruns
COPY --chown=app:app presets ./presets
COPY --chown=app:app data ./data
COPY --chown=app:app certificates ./certificates
COPY --chown=app:app study ./study
COPY --chown=app:app launchers ./launchers
COPY --chown=app:app stages ./stages
COPY --chown=app:app src ./src
USER app
# DVC wants a repository; the image carries none of the history.
RUN git init -q .
# tini hands a `docker stop` on to the whole process group, or the training would outlive DVC; entry.sh waits for MLflow's run.
ENTRYPOINT ["/usr/bin/tini", "-g", "--", "sh", "/opt/entry.sh"]
CMD ["dvc", "repro"]
