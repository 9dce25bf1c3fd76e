"""The house holds: imports only downwards, heavy ones lazy, public names complete."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import evalkit

PACKAGE = Path(evalkit.__file__).parent
# Upper floors first. A room imports from the floors below and from itself; rooms of one floor stand
# side by side and do not know each other.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"report", "integrations"},
    {"preferences", "contrasts", "track", "plan", "card", "validate"},
    {
        "compare",
        "best_of_n",
        "references",
        "leaderboard",
        "calibrate",
        "accuracy",
        "gate",
        "check",
    },
    {"comparison"},
    {"sets", "suites", "notices", "lengths", "breakdown"},
    {"scoring"},
    {"reward_models", "store", "formats", "pairing"},
    {"statistics", "signature", "workspace"},
    {"data", "files"},
    {"errors"},
    {"text", "version", "strict_json"},
]
HEAVY = ("torch", "transformers", "pandas", "matplotlib", "scipy", "pyarrow", "datasets", "jinja2")


def floor_of(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):  # what only a type checker imports ties nothing at run time
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms() -> list[tuple[Path, str]]:
    modules = [p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"]
    return [(p, p.relative_to(PACKAGE).parts[0].removesuffix(".py")) for p in modules]


def test_every_room_has_a_floor():
    assert {room for _, room in rooms()} <= set.union(*FLOORS)


def test_imports_go_down_only():
    broken = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path, room in rooms()
        for name in imports(path)
        if name.startswith("evalkit.")
        and (target := name.split(".")[1]) != room
        and any(target in floor for floor in FLOORS)
        and floor_of(target) <= floor_of(room)
    ]
    assert broken == []


def test_only_reward_models_import_torch():
    users = {
        room
        for path, room in rooms()
        for name in imports(path)
        if name.split(".")[0] in {"torch", "transformers", "accelerate", "safetensors"}
    }
    assert users == {"reward_models"}


def loaded_after(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "code",
    ["import evalkit", "from evalkit.cli import run; run(['--help'])"],
    ids=["import", "help"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    assert not loaded_after(code) & set(HEAVY)


def test_a_public_name_is_resolved_on_first_use_without_torch():
    names = "; ".join(f"evalkit.{name}" for name in evalkit.__all__)
    assert "torch" not in loaded_after(f"import evalkit; {names}")


def test_help_takes_less_than_0_4_seconds_of_cpu():
    # the least of five: a first run may still compile, and the machine is shared
    script = "import time; from evalkit.cli import run; run(['--help']); print(time.process_time())"
    seconds = [
        float(
            subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, check=True
            ).stdout.splitlines()[-1]
        )
        for _ in range(5)
    ]
    assert min(seconds) < 0.4


def test_every_public_name_is_listed_and_there():
    assert set(evalkit.__all__) == set(evalkit._HOME) | {"__version__"}
    for name in evalkit.__all__:
        assert getattr(evalkit, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = evalkit.nothing


def test_functions_fit_a_screen_and_modules_a_sitting():
    long = [
        f"{path.name}:{node.lineno} {node.name}"
        for path, _ in rooms()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno > 75
    ]
    assert long == []
    assert [p.name for p, _ in rooms() if len(p.read_text("utf-8").splitlines()) > 420] == []


def test_every_top_level_folder_says_what_it_is_for():
    root = PACKAGE.parent
    for name in ("benchmarks", "reference_cache", "reports", "tests"):
        assert (root / name / "README.md").read_text("utf-8").strip()
