"""One thin file per stage of dvc.yaml: read params and inputs, one call into src/epsilon_dpo, write outputs."""

import sys

if sys.argv[0] == "-m":  # `python -m stages.NAME` is about to import the stage, and with it torch, for seconds
    from epsilon_dpo.pipeline.observability.tracker import start_early
    from epsilon_dpo.pipeline.stage.lifetime import end_with_dvc

    start_early()
    end_with_dvc()
