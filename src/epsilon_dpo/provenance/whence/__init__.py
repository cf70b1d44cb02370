"""Where a file or folder comes from, by its content: `epsilon-dpo whence FILE`.

In: any file or folder, also one that was copied or renamed; every dvc.lock of this project's workspace and history, the
lists of files in DVC's cache; the manifest.json of a model folder. Out: the stage that made it with its commit, params,
data, base model, environment, MLflow run and parents; or how it differs from the output whose name it has.
It reads no file by its name where the content decides, fetches nothing from DVC's remote and writes nothing.
"""
