"""Samples with vLLM, in an environment that has vLLM and nothing of this project. `python vllm_worker.py FOLDER`

Written against vLLM 0.33. As in sampling.py nothing but params.yaml shapes the distribution: the model's
generation_config is not read. The weights keep the type they were saved in.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # else which prompts share a batch depends on the scheduler's timing


def end_with(stage: int) -> None:
    """Kill this process once its parent `stage` is gone: nobody would read the answers, and the GPU is free for others.

    A stage that is killed takes nothing along.
    """

    def follow() -> None:
        while os.getppid() == stage:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=follow, daemon=True).start()


def main(folder: Path) -> None:
    """Answer all prompts of `folder`/request.json."""
    request = json.loads((folder / "request.json").read_text("utf-8"))
    end_with(request["stage"])
    from vllm import LLM, SamplingParams

    config = json.loads((Path(request["model"]) / "config.json").read_text("utf-8"))
    prompts: dict[str, list[int]] = request["prompts"]
    strings: list[str] = request["stop"]["strings"]
    wanted = [  # before the weights: what vLLM refuses of it costs seconds
        SamplingParams(
            temperature=request["temperature"],
            top_p=request["logits"]["top_p"],
            top_k=request["logits"]["top_k"] or 0,
            min_p=request["logits"]["min_p"] or 0.0,
            repetition_penalty=request["logits"]["repetition_penalty"],
            max_tokens=request["max_new_tokens"],
            stop_token_ids=request["stop_token_ids"],
            stop=strings,
            ignore_eos=True,  # the model's own stop tokens are not the project's
            seed=request["seeds"][id_] % 2**63,
            detokenize=bool(strings),  # strings are looked for in the text
        )
        for id_ in prompts
    ]
    model = LLM(
        model=request["model"],
        trust_remote_code=False,
        dtype=config.get("dtype") or config.get("torch_dtype") or "auto",
        generation_config="vllm",
        max_model_len=max(map(len, prompts.values())) + request["max_new_tokens"],
        max_num_seqs=request["batch_size"],
        seed=0,
    )
    answers = model.generate([{"prompt_token_ids": ids} for ids in prompts.values()], wanted)
    with (folder / "completions.jsonl").open("w", encoding="utf-8") as file:
        for id_, answer in zip(prompts, answers, strict=True):
            [found] = answer.outputs
            ids = list(found.token_ids)
            if found.finish_reason == "stop" and not isinstance(found.stop_reason, str):  # at a token, at no string
                stop = request["stop_token_ids"][0] if found.stop_reason is None else found.stop_reason
                ids += [stop] if ids[-1:] != [stop] else []  # versions differ in whether they give it
            file.write(json.dumps({"id": id_, "ids": ids}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
