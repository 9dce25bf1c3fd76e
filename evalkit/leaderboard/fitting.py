"""From games to a leaderboard: the fit, its ranks, and what must be said beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evalkit.errors import InputError
from evalkit.leaderboard.result import Decider, Leaderboard, Options, Player, Role, Signature
from evalkit.pairing import Missing
from evalkit.statistics import bradley_terry
from evalkit.statistics.bradley_terry import Strengths
from evalkit.statistics.games import Games
from evalkit.statistics.ranking import RankRanges, rank_ranges
from evalkit.text import count, did_you_mean, listing
from evalkit.version import __version__

FEW_PROMPTS = 20
SAME = 12  # decimals beyond which two strengths differ by rounding alone


class Played(NamedTuple):
    """The games and what is to be said beside them.

    Attributes:
        roles: Name -> role, in the order of the games' numbers.
        labels: Name -> name and digest of its completions, where it has any.
        decided_by: What decided.
        games: One for every prompt and two players; an outcome is NaN where ties are dropped.
        left_out: As for `Leaderboard`.
        unscored: As for `Leaderboard`.
        truncated: Items that lost tokens.
        notices: What must be said, not counting what is left out and the state of the fit.
    """

    roles: Mapping[str, Role]
    labels: Mapping[str, str]
    decided_by: Decider
    games: Games
    left_out: Mapping[str, tuple[str, ...]]
    unscored: Mapping[str, str]
    truncated: int
    notices: Sequence[str]


def check_players(names: Sequence[str], anchor: str | None) -> None:
    """Refuse fewer than two players, and an anchor that is none of them.

    Raises:
        InputError: Naming them.
    """
    if len(names) < 2:
        raise InputError(
            f"a leaderboard of {count(len(names), 'player')}",
            where=listing(names),
            fix="name two or more with --model and --ref",
        )
    if anchor is not None and anchor not in names:
        raise InputError(
            f"the anchor {anchor!r} is none of the players",
            fix=f"one of {listing(names)}. {did_you_mean(anchor, names)}".strip(),
        )


def refuse_missing(
    left_out: dict[str, tuple[str, ...]], missing: Missing
) -> dict[str, tuple[str, ...]]:
    """The same, or under `missing="error"` an error if there is anything in it.

    Raises:
        InputError: Naming who lacks what.
    """
    if left_out and missing == "error":
        n = len({prompt_id for ids in left_out.values() for prompt_id in ids})
        raise InputError(
            f"{count(n, 'prompt')} that some player lacks",
            where=listing([_lacks(*item) for item in left_out.items()], separator="\n     "),
            fix="add what is missing, or let everybody meet on what is there with --missing drop",
        )
    return left_out


def _lacks(name: str, ids: Sequence[str]) -> str:
    return f"{name} lacks {count(len(ids), 'prompt')}: {listing(ids, shown=5)}"


def fitted(played: Played, options: Options) -> Leaderboard:
    """Fit the games.

    Raises:
        InputError: No game decides, or no chain of games connects some players.
    """
    names = list(played.roles)
    games, counts = played.games, _counts(played.games, len(names))
    known = ~np.isnan(games.outcome)
    if not known.any():
        raise InputError("no game decides: all are ties, and ties are dropped", fix="--ties half")
    games = Games(games.prompt[known], games.i[known], games.j[known], games.outcome[known])
    anchor = None if options.anchor is None else names.index(options.anchor)
    fit = bradley_terry.fit(games, names, anchor=anchor, level=options.level)
    ranks = rank_ranges(fit)
    quality = bradley_terry.fit_quality(fit)
    chances = bradley_terry.win_probabilities(fit)
    order = sorted(
        range(len(names)), key=lambda k: (-round(float(fit.strength[k]), SAME), names[k])
    )
    met = fit.wins + fit.wins.T
    observed = np.divide(fit.wins, met, out=np.full_like(met, np.nan), where=met > 0)
    matrices = [matrix[np.ix_(order, order)] for matrix in (observed, chances)]
    for matrix in matrices:
        matrix.setflags(write=False)
    n, n_games = len(fit.prompts), len(games.outcome)
    return Leaderboard(
        players=tuple(_player(k, played, fit, ranks, counts[k]) for k in order),
        groups=tuple(
            tuple(names[k] for k in order if k in group) for group in map(set, ranks.groups)
        ),
        decided_by=played.decided_by,
        observed=matrices[0],
        fitted=matrices[1],
        gap=(quality.gap, (names[quality.pair[0]], names[quality.pair[1]])),
        intransitive=quality.intransitive,
        state=fit.state,
        explanation=_explanation(fit),
        n=n,
        games=n_games,
        left_out=played.left_out,
        unscored=played.unscored,
        options=options,
        notices=_all_notices(played, fit, n),
        signature=_signature(played, options, n, n_games),
    )


def _counts(games: Games, m: int) -> list[tuple[int, int, int]]:
    """Wins, ties and losses of each player."""
    won = np.sign(np.nan_to_num(games.outcome - 0.5))
    player, sign = np.concatenate([games.i, games.j]), np.concatenate([won, -won])
    wins, ties, losses = (np.bincount(player[sign == k], minlength=m) for k in (1, 0, -1))
    return [(int(wins[k]), int(ties[k]), int(losses[k])) for k in range(m)]


def _player(
    k: int, played: Played, fit: Strengths, ranks: RankRanges, counts: tuple[int, int, int]
) -> Player:
    low, high = (float(ends[k]) for ends in fit.ends)
    chances = bradley_terry.win_probabilities(fit)[k]
    return Player(
        name=fit.players[k],
        role=played.roles[fit.players[k]],
        strength=float(fit.strength[k]),
        low=_defined(low),
        high=_defined(high),
        stderr=_defined(float(fit.stderr[k])),
        best_rank=int(ranks.best[k]),
        worst_rank=int(ranks.worst[k]),
        separable_from_first=k not in ranks.groups[0],
        wins=counts[0],
        ties=counts[1],
        losses=counts[2],
        win_probability=float(np.delete(chances, k).mean()),
    )


def _defined(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _explanation(fit: Strengths) -> str:
    if fit.state == "ok":
        return ""
    groups = ", ".join(f"[{listing(group)}]" for group in fit.components)
    return (
        f"separated: between any two of the groups {groups} all points went one way, so that "
        "strengths would be infinite; one imaginary prompt, on which every two that met tied, "
        "keeps them finite, and how far the groups lie apart is this convention's"
    )


def _all_notices(played: Played, fit: Strengths, prompts: int) -> tuple[str, ...]:
    found = list(played.notices)
    if prompts < FEW_PROMPTS:
        found.append(
            f"{count(prompts, 'prompt')} are few: the intervals of strengths rest on large samples"
        )
    if played.left_out or played.unscored:
        n = len(_not_everywhere(played))
        found.append(f"{count(n, 'prompt')} not played by all, {prompts} played by some")
        found += [_lacks(name, ids) for name, ids in played.left_out.items()]
        found += [f"{prompt_id}: {why}" for prompt_id, why in played.unscored.items()]
    return tuple(dict.fromkeys(filter(None, [*found, _explanation(fit)])))


def _not_everywhere(played: Played) -> set[str]:
    return {*played.unscored}.union(*played.left_out.values())


def _signature(played: Played, options: Options, n: int, games: int) -> Signature:
    decider = played.decided_by
    return Signature(
        players=tuple(
            f"{role[0]}={played.labels.get(name, name)}" for name, role in played.roles.items()
        ),
        anchor=options.anchor or "",
        decided_by=f"{decider.name}#{decider.fingerprint[:16]}",
        dtype=decider.dtype,
        max_length=decider.max_length,
        overlong=decider.overlong,
        output=decider.output,
        outcome="soft" if options.soft else "hard",
        benchmark=options.benchmark or "",
        n=n,
        games=games,
        left_out=len(_not_everywhere(played)),
        truncated=played.truncated,
        missing=options.missing,
        ties=str(options.ties),
        ci=f"t-clustered,holm;{options.level!r}",
        version=__version__,
    )
