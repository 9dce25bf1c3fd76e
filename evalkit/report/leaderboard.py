"""A leaderboard as a text table, Markdown, JSON and CSV; a rank never stands without its range."""

from __future__ import annotations

import numpy as np

from evalkit.data import FloatArray
from evalkit.leaderboard import Leaderboard, Player
from evalkit.report.layout import (
    Writers,
    aligned,
    csv_lines,
    escape,
    group_lines,
    json_document,
    markdown_signature,
    markdown_table,
)
from evalkit.report.tables import UNDEFINED, percent
from evalkit.text import printable

SCHEMA_VERSION = 1
HEAD = ("ranks", "player", "role", "Elo", "strength", "W/T/L", "win probability", "from the first")
OUTCOMES = {False: "win, tie or loss", True: "probabilities"}


def to_text(board: Leaderboard) -> str:
    """The table for a terminal, with groups, fit, notices and signature below."""
    decider = board.decided_by
    body = [list(HEAD), *_rows(board)]
    lines = [
        f"{decider.kind} {printable(decider.name)} #{decider.fingerprint[:16]}; {board.n} prompts, "
        f"{board.games} games; outcomes: {OUTCOMES[board.options.soft]}; "
        f"{100 * board.options.level:g} % intervals and rank ranges"
    ]
    lines += aligned(body)
    lines += [printable(line) for line in summary(board)]
    lines += [f"note: {printable(notice)}" for notice in board.notices]
    return "\n".join([*lines, f"signature: {printable(str(board.signature))}"]) + "\n"


def to_markdown(board: Leaderboard) -> bytes:
    """The same as Markdown, with the win rates of every two players; text is escaped."""
    names = [printable(player.name) for player in board.players]
    lines = markdown_table([list(HEAD), *_rows(board)])
    lines += ["", *(f"- {escape(printable(line))}" for line in summary(board))]
    lines += [f"- note: {escape(printable(notice))}" for notice in board.notices]
    lines += [markdown_signature(board.signature)]
    lines += ["", "Win rate of the row against the column, %: observed (fitted).", ""]
    pairs = [
        [name, *(_cell(*rates) for rates in zip(*rows, strict=True))]
        for name, *rows in zip(names, board.observed.tolist(), board.fitted.tolist(), strict=True)
    ]
    lines += markdown_table([["", *names], *pairs])
    return ("\n".join(lines) + "\n").encode()


def to_json(board: Leaderboard) -> bytes:
    """The document as indented JSON, the same bytes on every run."""
    return json_document(document(board))


def document(board: Leaderboard) -> dict[str, object]:
    """Everything a program needs; rates are fractions, undefined values null."""
    gap, between = board.gap
    return {
        "schema_version": SCHEMA_VERSION,
        "decided_by": board.decided_by._asdict(),
        "n": board.n,
        "games": board.games,
        "outcome": board.signature.outcome,
        "ties": str(board.options.ties),
        "missing": board.options.missing,
        "anchor": board.options.anchor,
        "level": board.options.level,
        "state": board.state,
        "explanation": board.explanation or None,
        "players": [_record(player) for player in board.players],
        "groups": [list(group) for group in board.groups],
        "win_rates": {
            "players": [player.name for player in board.players],
            "observed": _nulls(board.observed),
            "fitted": _nulls(board.fitted),
        },
        "fit": {"max_gap": gap, "between": list(between), "intransitive": board.intransitive},
        "left_out": {name: list(ids) for name, ids in board.left_out.items()},
        "unscored": dict(board.unscored),
        "notices": list(board.notices),
        "signature": str(board.signature),
        "exit_code": 0,
    }


def to_csv(board: Leaderboard) -> bytes:
    """A player on a line, numbers in full; text cells cannot act as formulas."""
    shared = {
        "decided_by": board.decided_by.name,
        "n": board.n,
        "level": board.options.level,
        "state": board.state,
        "notices": "; ".join(board.notices),
        "signature": str(board.signature),
    }
    records = [{**_record(player), **shared} for player in board.players]
    return csv_lines(records)


WRITERS = Writers[Leaderboard](
    {
        ".json": to_json,
        ".csv": to_csv,
        ".md": to_markdown,
    }
)
check_output, write = WRITERS.check, WRITERS.write


def summary(board: Leaderboard) -> list[str]:
    """The groups that cannot be told apart, and how well strengths describe the games."""
    lines = group_lines(board.groups)
    gap, (a, b) = board.gap
    cycles = board.intransitive
    circle = UNDEFINED if cycles is None else f"{percent(cycles)} %"
    worst = f"at most {percent(gap)} percentage points from the observed win rates ({a}, {b})"
    lines.append(f"fit ({board.state}): {worst}; triples that go in circles: {circle}")
    return lines


def _rows(board: Leaderboard) -> list[list[str]]:
    others = board.players[1:]
    apart = ("separable" if player.separable_from_first else "not separable" for player in others)
    return [[*_cells(p), said] for p, said in zip(board.players, ["–", *apart], strict=True)]


def _cells(player: Player) -> list[str]:
    strength = (player.low, player.high)
    return [
        f"{player.best_rank}–{player.worst_rank}",
        printable(player.name),
        player.role,
        f"{player.elo:.0f} {_interval(player.elo_interval or (None, None), 0)}",
        f"{player.strength:.3f} {_interval(strength, 3)}",
        f"{player.wins}/{player.ties}/{player.losses}",
        f"{percent(player.win_probability)} %",
    ]


def _interval(ends: tuple[float | None, float | None], places: int) -> str:
    low, high = ends
    if low is None or high is None:
        return "[undefined]"
    return f"[{low:.{places}f}, {high:.{places}f}]"


def _cell(observed: float, fitted: float) -> str:
    if np.isnan(observed):
        return "–"
    return f"{percent(observed)} ({percent(fitted)})"


def _record(player: Player) -> dict[str, object]:
    elo_low, elo_high = player.elo_interval or (None, None)
    return {
        "name": player.name,
        "role": player.role,
        "best_rank": player.best_rank,
        "worst_rank": player.worst_rank,
        "separable_from_first": player.separable_from_first,
        "strength": player.strength,
        "low": player.low,
        "high": player.high,
        "stderr": player.stderr,
        "elo": player.elo,
        "elo_low": elo_low,
        "elo_high": elo_high,
        "wins": player.wins,
        "ties": player.ties,
        "losses": player.losses,
        "win_probability": player.win_probability,
    }


def _nulls(matrix: FloatArray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else value for value in row] for row in matrix.tolist()]
