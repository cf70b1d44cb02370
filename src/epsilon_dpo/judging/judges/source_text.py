"""A dialogue and two answers as the texts that PairRM reads."""

from epsilon_dpo.judging.judges.interface import Messages
from epsilon_dpo.judging.judges.layout import Pair

# LLM-Blender's compare_conversations, misspelling included.
CONVERSATION = "Finish the following coversation in each i-th turn by filling in <Response i> with your response."


def pair_text(prompt: Messages, a: str, b: str) -> Pair:
    """PairRM's view of answers `a` and `b` to `prompt` (messages, the last one the user's).

    One user message: its raw text is the source, as the paper's single-turn evaluation has it. More turns: the layout
    of LLM-Blender's `compare_conversations`. It scores all assistant turns together, so the shared earlier answers
    are in both candidates, and count where these are cut; a source that is cut loses the *last* user turn, on its
    right. Users and assistants take turns (stage validate's `roles_alternate`), as upstream asserts. A system message
    has no place in PairRM's inputs; it is put before the user's text, with a line break between.
    """
    system = "".join(f"{message['content']}\n" for message in prompt if message["role"] == "system")
    users = [message["content"] for message in prompt if message["role"] == "user"]
    if len(users) == 1:
        return Pair(system + users[0], a.strip(), b.strip())
    earlier = [message["content"] for message in prompt if message["role"] == "assistant"]
    source = (
        system + CONVERSATION + "\n".join(f"USER: {text}\nAssistant: <Response {i}>" for i, text in enumerate(users, 1))
    )
    return Pair(source, _responses([*earlier, a.strip()]), _responses([*earlier, b.strip()]))


def _responses(texts: list[str]) -> str:
    return "\n".join(f"<Response {i}>: {text}" for i, text in enumerate(texts, 1))
