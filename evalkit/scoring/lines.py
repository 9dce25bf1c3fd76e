"""One `{"id", "score"}` per row, as OpenDataArena's scorers write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from evalkit.data import Messages, Prompt, Row, conversation, conversation_key, prompt_of
from evalkit.errors import Fault, MalformedError
from evalkit.scoring import Scored


def conversations(
    rows: Sequence[Row], prompts: Mapping[str, Prompt], source: str
) -> list[Messages]:
    """The conversation of each row.

    Raises:
        MalformedError: Rows whose prompt is unknown.
    """
    faults: list[Fault] = []
    found = [prompt_of(row, prompts, faults) for row in rows]
    if faults:
        raise MalformedError(source, faults, fix='add "messages", or name the benchmark')
    return [
        conversation(prompt.messages, row.completion)
        for prompt, row in zip(found, rows, strict=True)
        if prompt is not None
    ]


def score_lines(
    rows: Sequence[Row],
    row_conversations: Sequence[Messages],
    scored: Scored,
    attributes: Sequence[str] = (),
) -> tuple[str, int, list[str]]:
    """JSON Lines in the order of the rows, ids in their own type, and what went wrong.

    A row that has no id gets an empty one; a row without a reward gets null and the reason. What
    the reward model computes beside the reward stands under `attributes`.

    Returns:
        The lines, how many rows lost tokens, and `where: reason` of each row without a reward.
    """
    lines: list[str] = []
    problems: list[str] = []
    cut = 0
    for row, messages in zip(rows, row_conversations, strict=True):
        key = conversation_key(messages)
        line: dict[str, object] = {"id": "" if row.id is None else row.id, "score": None}
        if key in scored.rewards:
            reward = scored.rewards[key]
            line["score"] = reward.reward
            if attributes:
                line["attributes"] = dict(zip(attributes, reward.attributes, strict=True))
            if reward.cut:
                line["tokens_cut"] = reward.cut
                cut += 1
        else:
            line["error"] = scored.problems[key]
            problems.append(f"{row.where}: {scored.problems[key]}")
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines), cut, problems
