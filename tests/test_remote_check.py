"""`evalkit reward-models check` of what is served: faults of servers, and none of a clean one."""

import json
import re
from collections import Counter

import pytest

from evalkit.cli import run
from evalkit.reward_models.remote import client
from tests.endpoints import KINDS, toml
from tests.reward_server import MODEL, RewardServer
from tests.shared_data import DEMO_RM


class OneLabel(RewardServer):
    """Takes a softmax over its one label."""

    def _score(self, ids, raw):
        return 1.0


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys):
    """Exit code, findings and the document of a check of one server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)

    def check(server, dialect, **keys):
        known = {"endpoint": server.url, "dialect": dialect, "model": MODEL, "revision": "r1",
                 "tokenizer": str(DEMO_RM), "max_length": 512, "timeout": 10.0}  # fmt: skip
        (tmp_path / "evalkit.toml").write_text(toml(**{**known, **keys}))
        code = run(["reward-models", "check", "served", "--json"])
        out, err = capsys.readouterr()
        assert out, err
        document = json.loads(out)
        return code, {f["code"]: f for f in document["findings"]}, document

    return check


@pytest.mark.parametrize("dialect", KINDS)
def test_a_clean_server_has_no_findings(dialect, checked):
    with RewardServer(KINDS[dialect], regression=dialect.startswith("infinity")) as server:
        code, findings, document = checked(server, dialect)
    assert (code, findings) == (0, {})
    assert {"squashed", "moves-with-batch"} <= set(document["clean"])
    counting = dialect in ("vllm-pooling", "vllm-classify", "sglang-classify")
    assert "double-bos" in document["clean" if counting else "inapplicable"]


def test_a_clean_judge_has_no_findings(checked):
    def longer(prompt):
        first, second = (prompt.split(f"<answer_{x}>")[1].split("</")[0] for x in "AB")
        return f"[[{'AB'[len(second) > len(first)]}]]"

    with RewardServer("openai", judge=longer) as server:
        code, findings, document = checked(server, "openai-judge", tokenizer=None, max_length=None)
    assert (code, findings) == (0, {})
    assert "double-bos" in document["inapplicable"]
    assert "wavers" in document["clean"]


@pytest.mark.parametrize(("other", "unreadable"), [("[[C]]", 0), ("Hm.", 1)])
def test_a_judge_that_wavers_is_found_with_the_share_of_its_verdicts(other, unreadable, checked):
    asked = Counter()

    def judge(prompt):
        asked[prompt] += 1
        wavers = shown.match(prompt) and asked[prompt] == 2
        return other if wavers else f"[[{'AB'[len(prompt) % 2]}]]"

    shown = re.compile(r".*<answer_A>\n42\n.*<answer_B>\nThe answer is 43", re.DOTALL)
    with RewardServer("openai", judge=judge) as server:
        code, findings, document = checked(server, "openai-judge", tokenizer=None, max_length=None)
    assert (code, list(findings)) == (3, ["wavers"])
    found, n = findings["wavers"], document["conversations"]
    assert found["number"] == pytest.approx(1 / n)
    assert f"1 of {n} verdicts come out differently, {unreadable} of these" in found["what"]
    assert "moves-with-batch" in document["inapplicable"]
    assert "random-head" not in {*document["clean"], *document["inapplicable"]}


@pytest.mark.parametrize("mark", ["A", "C"])
def test_a_judge_that_always_gives_one_verdict_is_found(mark, checked):
    with RewardServer("openai", judge=lambda prompt: f"[[{mark}]]") as server:
        code, findings, document = checked(server, "openai-judge", tokenizer=None, max_length=None)
    assert (code, list(findings)) == (3, ["constant"])
    assert findings["constant"]["number"] == document["conversations"] == 32
    assert f"all 32 verdicts are [[{mark}]]" in findings["constant"]["what"]


def test_a_judge_whose_server_fails_at_the_second_asking_is_no_judge_that_wavers(
    checked, tmp_path, capsys
):
    def broken(texts, times):
        return "html" if times and any("<answer_A>\n42\n" in text for text in texts) else None

    with RewardServer("openai", misbehave=broken) as server:
        (tmp_path / "evalkit.toml").write_text(
            toml(endpoint=server.url, dialect="openai-judge", model=MODEL, revision="r1")
        )
        assert run(["reward-models", "check", "served"]) == 6
    assert "the server failed" in capsys.readouterr().err


@pytest.mark.parametrize("dialect", sorted({*KINDS} - {"sglang-classify", "openrlhf"}))
def test_a_server_that_squashes_is_found_with_its_flag(dialect, checked):
    with RewardServer(KINDS[dialect], squash=True) as server:
        code, findings, document = checked(server, dialect)
    assert code == 3
    assert list(findings) == ["squashed"]
    found = findings["squashed"]
    assert 0 < found["number"] < 1
    assert found["unit"] == "max − min"
    assert (
        "raw_scores" in found["fix"] or "use_activation" in found["fix"] or "regr" in found["fix"]
    )
    assert server.url in found["what"]
    assert document["conversations"] == 0


def test_a_softmax_over_one_label_is_found_as_squashed(checked):
    with OneLabel("vllm") as server:
        code, findings, _ = checked(server, "vllm-pooling")
    assert (code, findings["squashed"]["number"]) == (3, 0.0)
    assert "softmax over one label" in findings["squashed"]["what"]


def test_a_server_of_one_score_is_found_as_constant_and_not_as_a_softmax(checked):
    class Constant(RewardServer):
        def _score(self, ids, raw):
            return -3.0

    with Constant("openrlhf") as server:
        code, findings, _ = checked(server, "openrlhf")
    found = findings["constant"]
    assert (code, found["number"], found["unit"]) == (3, 4, "equal rewards")
    assert "-3.0 to every conversation" in found["what"]
    assert "softmax" not in found["what"]


@pytest.mark.parametrize("dialect", ["vllm-pooling", "vllm-classify", "sglang-classify"])
@pytest.mark.parametrize(
    ("reads", "code", "number"),
    [
        (lambda ids: [ids[0], *ids], "double-bos", 1),
        (lambda ids: [ids[0], *ids, ids[-1]], "double-bos", 2),
        (lambda ids: ids[-6:], "truncated-tail", None),
    ],
)
def test_a_server_that_reads_other_tokens_is_found(reads, code, number, dialect, checked):
    """allenai/reward-bench#164, at the server: BOS once more than it was sent."""
    with RewardServer(KINDS[dialect], reads=reads) as server:
        exit_code, findings, _ = checked(server, dialect)
    assert (exit_code, list(findings)) == (3, [code])
    found = findings[code]
    assert number is None or found["number"] == number
    assert found["number"] >= 1
    assert found["unit"] == f"tokens {'more' if code == 'double-bos' else 'fewer'} than sent"
    assert "add_special_tokens=false" in found["fix"] or "longer context" in found["fix"]


class Cutting(RewardServer):
    """Reads 40 tokens of whatever it is sent, says nothing of it, and counts no tokens."""

    kept = slice(None, 40)

    def _score(self, ids, raw):
        return super()._score(list(ids)[self.kept], raw)


class CuttingTheHead(Cutting):
    kept = slice(-40, None)


@pytest.mark.parametrize(
    ("dialect", "server_of", "end"),
    [
        ("openrlhf", Cutting, "last"),
        ("openrlhf", CuttingTheHead, "first"),
        ("infinity-classify", Cutting, "last"),
        ("infinity-rerank", Cutting, "last"),
        ("tei-predict", Cutting, "last"),
    ],
)
def test_a_server_that_cuts_and_counts_no_tokens_is_found(dialect, server_of, end, checked):
    with server_of(KINDS[dialect], regression=dialect.startswith("infinity")) as server:
        code, findings, _ = checked(server, dialect)
    assert (code, list(findings)) == (3, ["truncated-tail"])
    found = findings["truncated-tail"]
    assert f"{end} word" in found["what"]
    assert abs(found["number"] - (512 - 40)) <= 20  # what stands around the answer is cut too
    assert found["unit"] == "tokens fewer than sent"


def test_a_server_that_refuses_what_is_too_long_for_it_cuts_nothing(checked):
    def refuse(texts, times):
        return "413" if any(len(text) > 500 for text in texts) else None

    with RewardServer("openrlhf", misbehave=refuse) as server:
        code, findings, _ = checked(server, "openrlhf")
    assert (code, findings) == (0, {})


def test_a_refusal_without_a_code_stays_one(checked, tmp_path, capsys):
    with RewardServer("vllm", models=("another",)) as server:
        (tmp_path / "evalkit.toml").write_text(
            toml(endpoint=server.url, dialect="vllm-pooling", model=MODEL,
                 tokenizer=str(DEMO_RM), max_length=512)
        )  # fmt: skip
        assert run(["reward-models", "check", "served"]) == 6
    assert "is not served" in capsys.readouterr().err
