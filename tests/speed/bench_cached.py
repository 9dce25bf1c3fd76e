"""A fully cached comparison of 805 prompts, as a whole process, against bare imports.

Each round runs both once, so that the ratio holds when the machine's speed drifts. The rewards are
put into the store directly; the reward model is demo-rm, of which only the files are hashed.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import evalkit.reward_models
from evalkit.data import Message, conversation_key
from evalkit.reward_models.describe import describe
from evalkit.store import Store, StoredReward

DEMO_RM = Path(evalkit.reward_models.__file__).parent / "demo-rm"
IMPORTS = "import click, jinja2, numpy, scipy.special, sqlite3, matplotlib.figure, evalkit"


def prepare(folder: Path, prompts: int) -> None:
    rng = np.random.default_rng(0)
    spec = describe(DEMO_RM, "demo-rm", lambda p: hashlib.sha256(p.read_bytes()).hexdigest(), {})
    rows = []
    for name in ("model", "ref"):
        lines = []
        for i in range(prompts):
            question, answer = f"question {i}", f"{name} " + "word " * int(rng.integers(50, 400))
            lines.append(json.dumps({"instruction": question, "output": answer}) + "\n")
            key = conversation_key((Message("user", question), Message("assistant", answer)))
            rows.append(StoredReward(key, float(rng.normal()), 100, 0, "0" * 64))
        (folder / f"{name}.jsonl").write_text("".join(lines))
    with Store(folder / ".evalkit" / "store.db") as store:
        store.add(spec.fingerprint, spec.manifest, rows, tolerance=0.0, provenance={})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=805)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    files = ["--model", "model.jsonl", "--ref", "ref.jsonl", "--reward-model", "demo-rm"]
    compare = [sys.executable, "-m", "evalkit", "compare", *files]
    commands = {
        "bare imports": [sys.executable, "-c", IMPORTS],
        "compare, table only": [*compare, "--no-report"],
        "compare, with report": compare,
        "same, 10,000 resamples": [*compare, "--bootstrap", "10000"],
    }
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), options.prompts)
        seconds: dict[str, list[float]] = {key: [] for key in commands}
        for round_ in range(options.rounds + 1):
            for key, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, cwd=name, check=True, capture_output=True)
                if round_:  # the first compiles and warms the disk cache
                    seconds[key].append(time.perf_counter() - start)
    bare = statistics.median(seconds["bare imports"])
    print(f"{options.prompts} prompts, all rewards known; median of {options.rounds} runs")
    for key, times in seconds.items():
        median = statistics.median(times)
        print(f"{key:24}{median:7.2f} s{median / bare:7.2f} × bare imports{median - bare:+7.2f} s")


if __name__ == "__main__":
    main()
