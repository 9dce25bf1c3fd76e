"""The embedded data is what its descriptions say."""

import json
import tomllib

from evalkit.data import digest
from evalkit.formats import read_prompts
from tests.shared_data import REPOSITORY

STARTER = REPOSITORY / "benchmarks" / "starter"
PROMPTS = read_prompts(str(STARTER / "prompts.jsonl"))


def test_the_benchmark_is_the_one_its_toml_describes():
    about = tomllib.loads((STARTER / "benchmark.toml").read_text("utf-8"))
    prompts = sorted((p.prompt_id, p.messages, p.subset) for p in PROMPTS.values())
    assert about["prompts_digest"] == digest("prompts", prompts)
    assert about["subsets"] == sorted({p.subset for p in PROMPTS.values()})
    assert len(about["subsets"]) >= 6
    assert len(PROMPTS) >= 120


def test_every_checkpoint_answers_every_prompt_and_says_what_made_it():
    for path in sorted((STARTER / "completions").glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        assert [row["prompt_id"] for row in rows] == list(PROMPTS)
        about = tomllib.loads(path.with_suffix(".toml").read_text("utf-8"))
        assert about["step"] == int(path.stem.removeprefix("ckpt_"))
        assert "SmolLM2" in about["generator"]


def test_the_reference_says_what_it_stands_in_for():
    manifest = json.loads((REPOSITORY / "reference_cache/gpt4_refs/manifest.json").read_text())
    assert manifest["stand_in"] == "stand-in, not GPT-4 output"
    assert "not GPT-4" in manifest["generator"]
