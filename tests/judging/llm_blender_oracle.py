"""What llm-blender itself says of the tiny PairRM: run by hand in its own environment, writes the .json beside it.

    python3.11 -m venv v && v/bin/pip install "llm-blender==0.0.2" "transformers==4.38.2" "numpy<2"
    v/bin/python tests/judging/llm_blender_oracle.py

The texts hold no marker strings, on which llm-blender crashes.
"""

import json
import tempfile
from pathlib import Path

import tiny_pairrm
import torch
from safetensors.torch import save_file

ORACLE = Path(__file__).with_suffix(".json")
SOURCE_MAX, CANDIDATE_MAX = 40, 24
DIALOGUE_SOURCE_MAX, DIALOGUE_CANDIDATE_MAX = 300, 120
LONG = " ".join(tiny_pairrm.WORDS * 3)
TRIPLES = [
    ("what do you know about gold", "gold is a metal", "honey comes from bees"),
    ("tell me", "the moon", "the moon"),
    (LONG, LONG, "gold"),
    ("tell me about [SEP] bees", "more[SEP]gold [SEP] is a metal", "[CLS] the [MASK] moon"),
    ("the moon…", "gold\u00a0is\u200b½ a ﬁ metal", "…"),
    ("honey", "", LONG),
    ("the moon", LONG + " earth", LONG + " bees"),
    ("  more \n\n please\t", "Héllo, 🌕!\u200b\u200b ", "\u00a0 the  earth "),
]
DIALOGUES = [
    (["tell me about gold", "and the moon?"], ["gold is a metal"], "the moon orbits earth", "no idea"),
    (["honey?", "more", "more please…"], ["honey comes from bees", "bees"], "the  earth", LONG),
]
CANDIDATES = [("what do you know", ["gold", "the moon orbits earth", "gold", "honey comes from bees"])]


def blender_folder(folder: Path) -> Path:
    """The tiny PairRM in the original repository's form, and its backbone beside it."""
    hub = tiny_pairrm.write(folder / "backbone")
    prefix = "pretrained_model."
    backbone = {k.removeprefix(prefix): v for k, v in tiny_pairrm.weights().items() if k.startswith(prefix)}
    save_file(backbone, hub / "model.safetensors", metadata={"format": "pt"})
    ranker = tiny_pairrm.write(folder / "ranker")
    (ranker / "config.json").write_text(json.dumps(tiny_pairrm.ranker_config(str(hub), SOURCE_MAX, CANDIDATE_MAX)))
    return ranker


def conversation(users: list[str], answers: list[str]) -> list[dict[str, str]]:
    turns = [
        turn
        for user, answer in zip(users, answers, strict=True)
        for turn in ({"role": "USER", "content": user}, {"role": "ASSISTANT", "content": answer})
    ]
    return turns


def main() -> None:
    import llm_blender

    torch.set_num_threads(1)
    blender = llm_blender.Blender()
    with tempfile.TemporaryDirectory() as folder:
        blender.loadranker(str(blender_folder(Path(folder))), device="cpu")
    sources, first, second = map(list, zip(*TRIPLES, strict=True))
    whole_a = [conversation(users, [*earlier, a]) for users, earlier, a, _ in DIALOGUES]
    whole_b = [conversation(users, [*earlier, b]) for users, earlier, _, b in DIALOGUES]
    asked = {"return_logits": True, "disable_tqdm": True}
    found = {
        "f_ab": [blender.compare([s], [a], [b], mode="[A,B]", **asked)[0] for s, a, b in TRIPLES],
        "logit_one_by_one": [blender.compare([s], [a], [b], **asked)[0] for s, a, b in TRIPLES],
        "logit_in_batches_of_4": blender.compare(sources, first, second, batch_size=4, **asked),
        "rank_scores": blender.rank(*map(list, zip(*CANDIDATES, strict=True)), return_scores=True)[0],
        "ranks": blender.rank(*map(list, zip(*CANDIDATES, strict=True)))[0],
    }
    blender.ranker_config.source_maxlength = DIALOGUE_SOURCE_MAX
    blender.ranker_config.candidate_maxlength = DIALOGUE_CANDIDATE_MAX
    found["logit_of_dialogues"] = blender.compare_conversations(whole_a, whole_b, batch_size=1, return_logits=True)
    ORACLE.write_text(json.dumps({name: [x.item() for x in values] for name, values in found.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
