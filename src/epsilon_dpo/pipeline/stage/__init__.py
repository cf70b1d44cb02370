"""What every stage shares: reading params.yaml, running its block, writing what DVC hashes.

In: params.yaml, the stage's entry of dvc.yaml, the bytes of its dependencies. Out: a typed view of the declared keys;
out/STAGE, complete or absent; a scratch folder that no other execution shares, named by the fingerprint of everything
the result is made from, with a journal of finished batches; JSON that has the same bytes for the same content; beside
weights a manifest.json that says where they come from; what a run may be called and where its policies lie; seeds,
threads and device of a process that computes.
It does not decide what runs again (DVC does) and does not distribute (launch/ does). A stage does not outlive the
`dvc` that started it.
"""
