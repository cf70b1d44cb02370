"""One of several processes that sample, started by torchrun. `python worker.py FOLDER`"""

import sys
from pathlib import Path

import torch
from accelerate import PartialState

from epsilon_dpo.data.tokenizer.folder import load_tokenizer
from epsilon_dpo.models.policy.folder import load_policy
from epsilon_dpo.pipeline.machine.device import on_device
from epsilon_dpo.pipeline.machine.runtime import set_up
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.disk import disk_in_a_sentence
from epsilon_dpo.pipeline.stage.files import read_json, write_jsonl
from epsilon_dpo.sampling.answers.params import Sampler
from epsilon_dpo.sampling.answers.sampling import sample
from epsilon_dpo.sampling.answers.workers import REFUSED, REQUEST


def main(folder: Path) -> None:
    """Answer this process's share of the prompts of `folder`/request.json; shares are alike in length."""
    request = read_json(folder / REQUEST)
    params = Sampler(**{name: request[name] for name in Sampler.model_fields})
    set_up(0, request["threads"], params.processes)  # whatever is drawn has a seed of its own
    place = PartialState(cpu=not torch.cuda.is_available())  # of several GPUs it chooses this process's
    by_length = sorted(request["prompts"], key=lambda id_: (len(request["prompts"][id_]), id_))
    mine = {id_: request["prompts"][id_] for id_ in by_length[place.process_index :: place.num_processes]}
    model = on_device(load_policy(Path(request["model"])))
    tokenizer = load_tokenizer(Path(request["model"]))
    scratch = None if request["scratch"] is None else Path(request["scratch"])
    state = f"{request['state']}-{place.process_index}"
    completions = sample(model, tokenizer, mine, request["seeds"], params, scratch, state)
    rows = [{"id": id_, "ids": ids} for id_, ids in completions.items()]
    write_jsonl(folder / f"completions-{place.process_index}.jsonl", rows)
    place.destroy_process_group()


if __name__ == "__main__":
    try:
        with disk_in_a_sentence():
            main(Path(sys.argv[1]))
    except UserError as error:
        (Path(sys.argv[1]) / REFUSED).write_text(str(error), "utf-8")
        sys.exit(1)
