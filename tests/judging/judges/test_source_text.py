from epsilon_dpo.judging.judges.source_text import pair_text


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_a_single_turn_is_its_raw_text() -> None:
    assert pair_text([message("user", "Why?\n")], " Because. ", "No idea.") == ("Why?\n", "Because.", "No idea.")


def test_a_conversation_is_llm_blender_s_layout() -> None:
    prompt = [message("user", "Hi."), message("assistant", "Hello!"), message("user", "Who are you?")]
    pair = pair_text(prompt, "A model.", "Guess.")
    assert pair.source == (
        "Finish the following coversation in each i-th turn by filling in <Response i> with your response."
        "USER: Hi.\nAssistant: <Response 1>\nUSER: Who are you?\nAssistant: <Response 2>"
    )
    assert pair.a == "<Response 1>: Hello!\n<Response 2>: A model."
    assert pair.b == "<Response 1>: Hello!\n<Response 2>: Guess."


def test_a_system_message_comes_first() -> None:
    assert pair_text([message("system", "Be brief."), message("user", "Why?")], "x", "y").source == "Be brief.\nWhy?"
