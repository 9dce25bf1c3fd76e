"""Conversations that show what goes wrong: several turns, scripts, lengths, and hardly any answer.

None is longer than the shortest context of a published reward model, so that all of them fit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

from evalkit.data import Item, Message, Messages, Pair

ANSWERS_PER_PROMPT = 4

HEAT = (Message("user", "Why does a metal spoon feel colder than a wooden one?"),)
SUM = (Message("user", "What is 17 + 25? Only the number."),)
TEA = (
    Message("user", "How long should green tea steep?"),
    Message("assistant", "Two to three minutes, at about 75 °C."),
    Message("user", "And black tea?"),
)
CODE = (Message("user", "Reverse a list in Python in one line."),)
WORDS = (Message("user", "Übersetze ins Spanische: „Der Vogel singt.“ 🐦"),)
FERRY = (
    Message("system", "You answer in one short sentence."),
    Message("user", "When does the ferry leave?"),
)
SORRY = "I am not sure, but I would be glad to look into it if you tell me a little more. "

PROBES: Sequence[tuple[Messages, Sequence[str]]] = (
    (
        HEAT,
        (
            "Metal conducts heat away from your hand faster, so your skin cools more quickly.",
            "Because metal is colder than wood.",
            SORRY * 3,
        ),
    ),
    (SUM, ("42", "The answer is 43, since 17 and 25 make 43.", "")),
    (TEA, ("Three to five minutes, with boiling water.", "Black tea is a kind of tea.", "Long.")),
    (CODE, ("```python\nxs[::-1]\n```", "for x in xs:\n\tprint(x)", SORRY)),
    (WORDS, ("«El pájaro canta.»", "鳥が歌う。", "No.")),
    (FERRY, ("At half past nine, from pier two.", "Ferries are boats. " * 6)),
)


def probe_conversations() -> list[Messages]:
    """Seventeen conversations, two or three answers to each prompt."""
    return [
        (*prompt, Message("assistant", answer)) for prompt, answers in PROBES for answer in answers
    ]


def verdicts(conversations: Sequence[Messages]) -> list[tuple[int, int]]:
    """Two answers to one prompt, as positions; at most the first four answers of each."""
    by_prompt: dict[Messages, list[int]] = defaultdict(list)
    for i, messages in enumerate(conversations):
        by_prompt[messages[:-1]].append(i)
    return [
        pair for found in by_prompt.values() for pair in combinations(found[:ANSWERS_PER_PROMPT], 2)
    ]


def ordered_pairs(conversations: Sequence[Messages]) -> list[Item]:
    """The same as ordered pairs, in both orders."""
    return [
        Pair(conversations[i][:-1], conversations[i][-1].content, conversations[j][-1].content)
        for a, b in verdicts(conversations)
        for i, j in ((a, b), (b, a))
    ]
