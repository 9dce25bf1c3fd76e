import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from evalkit import validate
from evalkit.cli import run
from evalkit.report import validation
from evalkit.statistics.intervals import mean
from evalkit.validate import FEW_DECIDE, UNDER, Cell, Design, Validation, gates, metrics, simulate

COMMITTED = Path(__file__).parents[1] / "docs" / "validation.csv"
GATE = validate.studies()[0]  # the quickest study of decision rules


def quick():
    return simulate(
        trials=validate.QUICK_TRIALS, seed=validate.SEED, cells=validate.quick_designs()
    )


@pytest.fixture(scope="module")
def cells():
    return quick()


@pytest.fixture(scope="module")
def committed():
    with COMMITTED.open(newline="") as file:
        return list(csv.DictReader(file))


def ours(cells):
    return [c for c in cells if c.whose == "evalkit"]


def narrowed(*args, **options):
    """Evalkit's mean with an interval of two thirds its width."""
    found = mean(*args, **options)
    if found.low is None:
        return found
    middle, half = (found.low + found.high) / 2, (found.high - found.low) / 3
    fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
    return type(found)(**{**fields, "low": middle - half, "high": middle + half})


def test_quick_table_passes_and_has_every_metric(cells):
    assert {c.metric for c in cells} == set(metrics.METRICS)
    assert [c for c in ours(cells) if not c.passes] == []
    assert all(c.trials == 300 and c.undefined == 0 for c in cells)


def test_the_same_arguments_give_the_same_bytes(cells):
    assert validation.to_csv(cells) == validation.to_csv(quick())
    rules = validate.decide(trials=30, seed=1, of=[GATE])
    first, second = (Validation(found, rules) for found in (cells, quick()))
    assert validation.to_markdown(first) == validation.to_markdown(second)


def test_a_design_alone_has_the_numbers_it_has_among_others(cells):
    last = validate.quick_designs()[-1]
    alone = simulate(trials=300, seed=validate.SEED, cells=[last])
    assert alone == cells[-len(alone) :]


def test_another_seed_gives_other_numbers():
    one = Design("margin", 50, 0.3, 0.3)
    first, second = (simulate(trials=50, seed=seed, cells=[one]) for seed in (1, 2))
    assert first != second


def test_rows_that_hang_together_are_no_independent_rows(cells):
    # The control: what evalkit does not do, on the same data.
    rows = ("row bootstrap", "z on rows", "z, games independent", "fitted-value errors")
    wrong = [c for c in cells if c.method in rows and c.metric != "paired difference"]
    assert {c.method for c in wrong} == set(rows)
    assert all(c.verdict == UNDER and c.coverage < 0.9 for c in wrong)


def test_unpaired_methods_are_wider_than_needed(cells):
    at = [c for c in cells if c.metric == "paired difference" and c.icc == 0.7]
    own = next(c for c in at if c.whose == "evalkit")
    assert all(c.width > 1.5 * own.width for c in at if c.whose == "peer")


def test_uncorrected_tests_raise_too_many_false_alarms(cells):
    found = {c.method: c for c in cells if c.metric == metrics.FAMILY}
    assert found["max-t"].verdict == found["Holm"].verdict == "ok"
    assert found["paired t each, uncorrected"].verdict == UNDER


def test_an_interval_that_is_too_narrow_is_caught(monkeypatch):
    # The control that must fail.
    designs = [d for d in validate.quick_designs() if d.metric in {"win rate", "margin"}]
    assert all(c.passes for c in ours(simulate(trials=300, seed=1, cells=designs)))
    monkeypatch.setattr(metrics, "mean", narrowed)
    found = ours(simulate(trials=300, seed=1, cells=designs))
    assert [c.verdict for c in found] == [UNDER] * 4
    assert not any(c.passes for c in found)


def test_a_rare_win_does_not_excuse_any_interval(monkeypatch):
    design = Design("paired difference", 50, 0.7, 0.02)
    assert ours(simulate(trials=2000, seed=1, cells=[design]))[0].verdict == FEW_DECIDE

    def half(a, b):
        found = metrics_difference(a, b)
        narrow = narrowed(a - b, bounded=False)
        return type(found)(
            **{
                **{name: getattr(found, name) for name in found.__dataclass_fields__},
                "estimate": narrow,
            }
        )

    metrics_difference = metrics.paired_difference
    monkeypatch.setattr(metrics, "paired_difference", half)
    assert ours(simulate(trials=300, seed=1, cells=[design]))[0].verdict == UNDER


def test_betting_explains_what_is_over_the_limit_by_its_share_and_no_more():
    def verdict(coverage, betting):
        column = [metrics.Result("evalkit", "evalkit", True)]
        return validate._verdict(column, coverage, 0.0, betting)

    assert verdict(0.97, 0.0) == verdict(0.93, 0.0) == "ok"
    assert verdict(0.99, 1.0) == verdict(0.975, 0.2) == "conservative by design (betting)"
    assert verdict(0.99, 0.2) == verdict(0.98, 0.0) == "over-covers"
    assert verdict(0.929, 1.0) == UNDER


def test_monte_carlo_error_is_that_of_a_share(cells):
    c = next(c for c in cells if c.verdict == UNDER)
    assert c.stderr == pytest.approx((c.coverage * (1 - c.coverage) / 300) ** 0.5, rel=0.02)
    with pytest.raises(ValueError, match="two trials"):
        simulate(trials=1, seed=0)


def test_command_prints_percent_and_writes_fractions(tmp_path, capsys):
    table, rules, text = (tmp_path / name for name in ("t.csv", "t.decisions.csv", "t.md"))
    outputs = [x for path in (table, rules, text) for x in ("-o", str(path))]
    assert run(["validate", "--quick", *outputs]) == 0
    out = capsys.readouterr().out
    assert "evalkit: 22 cells, " in out
    assert "evalkit's rules: 9 rows, " in out
    assert table.read_bytes() == validation.to_csv(quick())
    with rules.open(newline="") as file:
        kinds = [row["kind"] for row in csv.DictReader(file)]
    assert list(dict.fromkeys(kinds)) == ["gate", "run", "over-optimisation", "choice"]
    assert "## Win rate\n" in text.read_text("utf-8")
    assert "### Alarms over a run\n" in text.read_text("utf-8")
    assert "%" not in table.read_text("utf-8") + rules.read_text("utf-8")


def test_command_fails_with_a_broken_interval(monkeypatch, capsys):
    monkeypatch.setattr(metrics, "mean", narrowed)
    monkeypatch.setattr(validate, "quick_studies", lambda: [GATE])
    assert run(["validate", "--quick"]) == 3
    cells, rules = [x for x in capsys.readouterr().out.splitlines() if x.startswith("evalkit")]
    assert ", 0 not" not in cells
    assert ", 0 not" in rules


def test_command_fails_with_a_broken_rule(monkeypatch, capsys):
    loose = {key: replace(policy, level=0.5) for key, policy in gates.POLICIES.items()}
    monkeypatch.setattr(gates, "POLICIES", loose)
    monkeypatch.setattr(validate, "quick_designs", lambda: [Design("margin", 50, 0.3, 0.3)])
    monkeypatch.setattr(validate, "quick_studies", lambda: [GATE])
    assert run(["validate", "--quick"]) == 3
    cells, rules = [x for x in capsys.readouterr().out.splitlines() if x.startswith("evalkit")]
    assert ", 0 not" in cells
    assert ", 1 not" in rules


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "table.txt"],
        ["-o", "nowhere/t.csv"],
        ["--quick", "--check", str(COMMITTED)],
        ["-o", "."],
    ],
)
def test_command_refuses_before_it_simulates(arguments, monkeypatch, capsys):
    monkeypatch.setattr(validate, "simulate", None)
    assert run(["validate", *arguments]) == 2
    assert "fix:" in capsys.readouterr().err


def test_check_tells_the_first_line_that_differs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(validate, "designs", lambda: [Design("margin", 50, 0.0, 0.3)])
    monkeypatch.setattr(validate, "studies", lambda: [GATE])
    tables = [tmp_path / name for name in ("t.csv", "t.decisions.csv", "t.md")]
    outputs = [x for path in tables for x in ("-o", str(path))]
    checks = [x for path in tables for x in ("--check", str(path))]
    assert run(["validate", "--trials", "20", *outputs]) == 0
    assert run(["validate", "--trials", "20", *checks]) == 0
    assert run(["validate", "--trials", "21", *checks]) == 5
    assert "t.csv:2:" in capsys.readouterr().err
    for path in tables[1:]:  # a rule's row alone
        row = next(line for line in path.read_text("utf-8").splitlines() if "any drop" in line)
        path.write_text(path.read_text("utf-8").replace(row, row.replace("2", "3", 1)), "utf-8")
        assert run(["validate", "--trials", "20", "--check", str(path)]) == 5
        assert "any drop" in capsys.readouterr().err


def test_committed_table_has_the_schema_and_every_design(committed):
    assert list(committed[0]) == list(Cell.__dataclass_fields__)
    rows = {(r["metric"], int(r["n"]), r["icc"], r["mean"]) for r in committed}
    assert rows == {(d.metric, d.n, f"{d.icc:.4f}", f"{d.mean:.4f}") for d in validate.designs()}
    assert {int(r["trials"]) for r in committed} == {validate.TRIALS}


def test_committed_cells_of_evalkit_are_as_said_or_say_why(committed):
    own = [r for r in committed if r["whose"] == "evalkit"]
    assert [r for r in own if r["verdict"] in {UNDER, "over-covers", "no interval"}] == []
    known = [(r["metric"], r["n"], r["icc"], r["mean"]) for r in own if r["verdict"] == FEW_DECIDE]
    assert known == [
        ("paired difference", "50", "0.7000", "0.0200"),
        ("length-controlled win rate", "50", "0.7000", "0.0500"),
    ]
    betting = [r for r in own if r["verdict"].endswith("(betting)")]
    assert all("betting" in r["method"] for r in betting)


def test_committed_cells_of_peers_under_cover_where_rows_hang_together(committed):
    methods = {"row bootstrap", "z on rows", "z, games independent"}
    found = [r for r in committed if r["method"] in methods and r["metric"] != "paired difference"]
    assert all((r["verdict"] == UNDER) for r in found if r["icc"] != "0.0000"), (
        "every one of them takes correlated rows as independent"
    )
    fitted = [r for r in committed if r["method"] == "fitted-value errors"]
    assert len(fitted) == 18
    assert all(float(r["coverage"]) < 0.7 for r in fitted)


@pytest.mark.slow
def test_committed_tables_are_rebuilt_byte_for_byte():
    seed, trials = validate.SEED, validate.TRIALS
    cells, rules = simulate(trials=trials, seed=seed), validate.decide(trials=trials, seed=seed)
    tables = Validation(cells, rules)
    for end in validation.WRITERS:
        path = COMMITTED.with_suffix(end)
        assert validation.difference(path, tables) is None
    assert len(list(csv.reader(io.StringIO(validation.to_csv(cells).decode())))) == len(cells) + 1
