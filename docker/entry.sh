#!/bin/sh
# The image's entry point: the command, and what a container has to do before and after it that may be stopped at any moment.
# DVC's rwlock names processes by number, and a new container numbers them as the old one did, so that one that was stopped
# would lock out the next. (What a stage writes is locked by the stage, in another way.)
# Only where no other container is at work in this folder: all hold this lock, shared, until their command ends.
if [ -d .dvc ] && mkdir -p .dvc/tmp && touch .dvc/tmp/containers; then
  exec 9<>.dvc/tmp/containers # for writing, too: NFS grants an exclusive lock to nothing else
  if flock -n -x 9; then rm -f .dvc/tmp/rwlock; fi
  flock -s 9
fi
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
