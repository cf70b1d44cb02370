#!/usr/bin/env bash
# The environment of one benchmark's tool, apart from this project's and from each other's (their pins conflict):
#   bash external/make_environment.sh alpaca_eval|arena_hard|mt_bench [FOLDER]
# FOLDER is external/environments by default. Needs Python 3.11 (PYTHON=... chooses another), the package index, and for
# arena_hard git and its repository. TORCH="torch==2.13.0 --index-url ..." chooses a CPU build for mt_bench.
set -euo pipefail
benchmark=${1:?alpaca_eval, arena_hard or mt_bench}
case $benchmark in
  alpaca_eval | arena_hard | mt_bench) ;;
  *) echo "unknown benchmark $benchmark: alpaca_eval, arena_hard or mt_bench" >&2; exit 1 ;;
esac
folder=${2:-$(dirname "$0")/environments}/$benchmark
"${PYTHON:-python3.11}" -m venv "$folder"
install() { "$folder/bin/python" -m pip install --disable-pip-version-check --quiet "$@"; }

case $benchmark in
  alpaca_eval) # scikit-learn 1.10 drops an argument that the length control passes
    install alpaca-eval==0.6.6 "scikit-learn<1.10" datasets==5.2.0 numpy==2.4.6 openai==3.52.0 pandas==3.1.1
    ;;
  arena_hard) # no package: a checkout, whose judge's part imports these
    install boto3 openai==3.52.0 pandas==3.1.1 pyyaml requests shortuuid tqdm
    [ -d "$folder/arena-hard-auto" ] || git clone https://github.com/lmarena/arena-hard-auto "$folder/arena-hard-auto"
    git -C "$folder/arena-hard-auto" checkout --quiet "${ARENA_HARD_COMMIT:-196f6b8}"
    ;;
  mt_bench) # the extra llm_judge pins openai 0.28.1 and leaves out what its own imports need
    # shellcheck disable=SC2086
    install ${TORCH:-torch==2.13.0}
    install "fschat[llm_judge]==0.2.36" accelerate pandas==3.1.1 peft psutil sentencepiece transformers==5.23.0
    ;;
esac
echo "$folder is ready"
