"""What `epsilon-dpo` says of results and of how they came about: where a file is from (whence).

In: dvc.yaml, dvc.lock of the workspace and of all commits, DVC's cache, the store of MLflow. Out: text, or JSON.
No stage imports it, and it changes no file.
"""
