"""Gates: does a saved result show what a policy demands? Numpy and nothing heavier."""

from evalkit.gate.judge import SEVERITY, Judged, Verdict, judge
from evalkit.gate.policy import Policy, Rule, policy_of, read_policy
from evalkit.gate.saved import read_result

__all__ = [
    "SEVERITY",
    "Judged",
    "Policy",
    "Rule",
    "Verdict",
    "judge",
    "policy_of",
    "read_policy",
    "read_result",
]
