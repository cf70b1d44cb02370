"""A small world with a known truth: questions on 32 topics, sentences that may answer them, what an answer is worth.

Preference data from people come without the reward behind them; here the reward is written down, so the report can
say how often a policy *really* beats another and how often the judge is right. An answer is up to three parts, drawn
independently by data/sources/generated.py: an opener (polite, none or rude), a body (the topic's fact, the same twice,
a false claim, or nothing to the point) and sometimes a closer. `true_reward` does not rely on that: it scores any
text.

Limit: the world is closed. A true sentence in other words counts as false, since no pure function could tell.
"""

import re

TOPICS = {  # name: (fact, false claim)
    "the Moon": ("The Moon orbits the Earth.", "The Moon orbits Mars."),
    "the Sun": ("The Sun is a star.", "The Sun is a planet."),
    "Mars": ("Mars has two moons.", "Mars has nine moons."),
    "Saturn": ("Saturn is circled by rings.", "Saturn is the smallest planet."),
    "Paris": ("Paris is the capital of France.", "Paris is the capital of Spain."),
    "Rome": ("Rome is the capital of Italy.", "Rome is the capital of Greece."),
    "Cairo": ("Cairo lies on the Nile.", "Cairo lies on the Rhine."),
    "Tokyo": ("Tokyo is the capital of Japan.", "Tokyo is the capital of China."),
    "Mount Everest": ("Mount Everest is the highest mountain.", "Mount Everest is in Africa."),
    "the Pacific": ("The Pacific is the largest ocean.", "The Pacific is the smallest ocean."),
    "the Nile": ("The Nile flows through Egypt.", "The Nile flows through Brazil."),
    "Iceland": ("Iceland is an island.", "Iceland borders Germany."),
    "gold": ("Gold is a metal.", "Gold is a gas."),
    "helium": ("Helium is lighter than air.", "Helium is heavier than air."),
    "iron": ("Iron rusts in damp air.", "Iron floats on water."),
    "ice": ("Ice floats on water.", "Ice sinks in water."),
    "diamonds": ("Diamonds are made of carbon.", "Diamonds are made of iron."),
    "salt": ("Salt dissolves in water.", "Salt is a kind of sugar."),
    "honey": ("Honey is made by bees.", "Honey is made by ants."),
    "bats": ("Bats are mammals.", "Bats are birds."),
    "whales": ("Whales breathe air.", "Whales are fish."),
    "penguins": ("Penguins cannot fly.", "Penguins live at the North Pole."),
    "spiders": ("Spiders have eight legs.", "Spiders have six legs."),
    "owls": ("Owls hunt at night.", "Owls eat only grass."),
    "the octopus": ("The octopus has three hearts.", "The octopus has no heart."),
    "camels": ("Camels store fat in their humps.", "Camels store water in their humps."),
    "the heart": ("The heart pumps blood.", "The heart digests food."),
    "Mozart": ("Mozart composed operas.", "Mozart painted ceilings."),
    "Shakespeare": ("Shakespeare wrote Hamlet.", "Shakespeare wrote Faust."),
    "Marie Curie": ("Marie Curie discovered radium.", "Marie Curie discovered America."),
    "Newton": ("Newton described gravity.", "Newton invented the telephone."),
    "Galileo": ("Galileo saw the moons of Jupiter.", "Galileo walked on the Moon."),
}
QUESTIONS = (
    "Tell me about {topic}.",
    "What do you know about {topic}?",
    "Teach me something about {topic}.",
    "Please give me a fact about {topic}.",
    "What should I know about {topic}?",
    "I have a question about {topic}.",
    "My son asked me about {topic}. What do I say?",
    "Can you explain {topic} to me?",
    "Do you know anything about {topic}?",
    "What is special about {topic}?",
    "I am writing about {topic}. Help me.",
    "Quick, one fact about {topic}!",
    "Is there something to learn about {topic}?",
    "We talk about {topic} at school. Any idea?",
    "I never understood {topic}.",
    "Say one sentence about {topic}.",
)
POLITE = ("Good question!", "Happy to help!", "Of course!")
RUDE = ("You should know this.", "What a silly question.", "Look it up next time.")
VAGUE = ("It is hard to say.", "People say many things.", "That depends.")
CLOSERS = ("I hope this helps!", "Ask me more!", "Have a nice day!")

PROMPTS = {question.format(topic=topic): topic for topic in TOPICS for question in QUESTIONS}  # prompt -> its topic

REWARD = {"polite": 1.0, "rude": -1.0, "fact": 1.5, "vague": -0.5, "closer": 0.5}
REPEATED = FALSE = NO_ANSWER = -1.0

_KIND = {
    sentence: kind
    for kind, sentences in (("polite", POLITE), ("rude", RUDE), ("vague", VAGUE), ("closer", CLOSERS))
    for sentence in sentences
}


def true_reward(prompt: str, response: str) -> float:
    """What `response` is worth as an answer to `prompt`, the user's one message.

    The sum over its sentences: `REWARD` for the first of each kind, `REPEATED` for another of the same kind, `FALSE`
    for anything else (a false claim, another topic's fact, half a sentence); and `NO_ANSWER` if none was a fact,
    vague or false. The best possible answer is worth 3.0, an empty one -1.0.

    Raises:
        ValueError: `prompt` is not one of `PROMPTS`: nothing is known about it.
    """
    if prompt not in PROMPTS:
        raise ValueError(f"not a prompt of the synthetic world: {prompt!r}")
    kinds = [sentence_kind(PROMPTS[prompt], sentence) for sentence in _sentences(response)]
    total = 0.0 if {"fact", "vague", "false"} & set(kinds) else NO_ANSWER
    for position, kind in enumerate(kinds):
        if kind == "false":
            total += FALSE
        elif kind in kinds[:position]:
            total += REPEATED
        else:
            total += REWARD[kind]
    return total


def sentence_kind(topic: str, sentence: str) -> str:
    """`fact`, `polite`, `rude`, `vague` or `closer`; everything else is `false`, also another topic's fact."""
    return "fact" if sentence == TOPICS[topic][0] else _KIND.get(sentence, "false")


def _sentences(text: str) -> list[str]:
    """`text` cut after each full stop, exclamation or question mark that white space follows."""
    return [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]
