#!/bin/sh
# The image's entry point: the command, and what a container has to do before and after it that may be stopped at any moment.
# DVC's rwlock names processes by number, and a new container numbers them as the old one did, so that one that was stopped
# would lock out the next. (What a stage writes is locked by the stage, in another way.)
rm -f .dvc/tmp/rwlock
# A stop is for the command; this waits for the writer that closes MLflow's run of the stopped stage, which else would be
# RUNNING for ever. `docker stop` gives ten seconds.
trap : TERM INT
"$@"
code=$?
waits=0
while [ $waits -lt 40 ] && grep -qas 'mlflow_write[r]' /proc/[0-9]*/cmdline; do
  sleep 0.2
  waits=$((waits + 1))
done
exit $code
