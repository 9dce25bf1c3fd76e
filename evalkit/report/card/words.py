"""What a reward model's kind says of its number, in words: type, range, inputs, definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from evalkit.card import Card
from evalkit.data import digest
from evalkit.reward_models.families import Family, Output
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.text import listing

TYPE: Mapping[Output, str] = {
    "bradley-terry": "Bradley-Terry reward: one real number for a conversation, whose differences "
    "within a prompt were trained as log-odds of one answer being preferred.",
    "relative": "Relative score: one real number for a conversation, which orders the answers to a "
    "prompt; its differences state no probability.",
    "absolute": "Absolute score: one real number for a conversation, made of labels that people "
    "gave on a scale; its differences state no probability.",
    "preference": "Pair preference: the log-odds that the first of two answers to a prompt is the "
    "better one; no answer has a number of its own.",
}
RANGE: Mapping[Output, str] = {
    "bradley-terry": "Declared: any real number; nothing bounds it.",
    "relative": "Declared: any real number; nothing bounds it.",
    "absolute": "Declared: as its labels were given; the arithmetic does not bound it.",
    "preference": "Declared: any real number as log-odds, a probability in [0, 1]. The log-odds of "
    "ordered pairs are:",
}
HIGHER: Mapping[Output, str] = {
    "preference": "Yes: above 0, or a probability above one half, the first answer is the better "
    "one. Both orders are asked and their probabilities averaged.",
}
WITHIN = (
    "Yes, among answers to one prompt under this reward model: the higher one is the better answer."
)
OVERLONG: Mapping[str, str] = {
    "error": "longer ones are an error of their row and get no reward",
    "truncate-left": "longer ones lose their start, and are counted",
    "truncate-right": "longer ones lose their end, and are counted",
}
SYSTEM: Mapping[str, str] = {
    "read": "read: one changes the tokens",
    "dropped": "dropped: one changes nothing that is read",
    "refused": "refused: a conversation with one gets no reward",
}
LOGPROB: Mapping[str, str] = {
    "ratio": "r(x, y) = β · Σ_t (log π(y_t | x, y_<t) − log π_ref(y_t | x, y_<t)), β = {beta:g}",
    "sum": "r(x, y) = β · Σ_t log π(y_t | x, y_<t), β = {beta:g}",
    "avg": "r(x, y) = β / |y| · Σ_t log π(y_t | x, y_<t), β = {beta:g}",
    "norm": "r(x, y) = −β · √(Σ_t (log π(y_t | x, y_<t))²), β = {beta:g}",
}
HEADED = ("classifier", "scalar", "gated", "pair-head")
POOL: Mapping[str, str] = {
    "last": "of the last token",
    "before-last": "of the token before the last",
    "mean": "averaged over all tokens",
}


def inputs(card: Card) -> list[str]:
    """What the reward model is given, an item a line."""
    spec = card.reward_model
    widened = spec.dtype != "float32" and spec.family.kind in HEADED
    what = (
        "a prompt (one or more turns) and two answers to it, in both orders"
        if spec.is_pairwise
        else "a conversation: the prompt's turns and the answer as the assistant's last one"
    )
    if spec.is_judge:
        prompt = f"shown by a prompt, sha256 {digest('template', spec.template)[:16]}, never cut"
        return [what, prompt, f"at most {spec.max_length:,} bytes, the prompt included"]
    return [
        what,
        f"rendered once by its template, sha256 {digest('template', spec.template)[:16]}; tokens "
        "of the tokenizer's own frame, such as a BOS, exactly once",
        f"at most {spec.max_length:,} tokens, template included; {OVERLONG[spec.overlong]}",
        "special tokens inside a message stay the text they are written as",
        f"a system turn is {SYSTEM[card.system_turn]} (tried on one conversation)",
        f"computed in {spec.dtype}{', the head in float32' if widened else ''}",
    ]


def definition(spec: RewardModelSpec) -> list[str]:
    """The formulas, a line each, in plain text."""
    kind = DEFINITIONS.get(spec.family.kind)
    own = [f"r is what {spec.family.name} computes, a family of the user's own"]
    lines = own if kind is None else kind(spec.family)
    if spec.is_pairwise:
        return [*lines, "P(a ≻ b | x) = (σ(ℓ(a, b)) + 1 − σ(ℓ(b, a))) / 2", PAIR_MARGIN]
    chance = "P(a ≻ b | x) = σ(m(a, b) / T), T = 1 unless calibrated"
    stated = spec.family.output == "bradley-terry"
    return [*lines, "m(a, b | x) = r(x, a) − r(x, b)", *([chance] if stated else [])]


PAIR_MARGIN = "m(a, b | x) = (ℓ(a, b) − ℓ(b, a)) / 2, of the sign of P − ½"


def _classifier(family: Family) -> list[str]:
    if weights := family.setting("weights"):
        terms = zip(weights, family.attributes, strict=False)
        return [
            "r(x, y) = Σ_k w_k · a_k(x, y), a_k the classifier's labels: "
            + ", ".join(f"{weight:g} · {name}" for weight, name in terms)
        ]
    label = f", label {family.setting('index')}" if family.setting("labels") > 1 else ""
    read = "the final hidden state of the last token, or an encoder's own pooled state"
    return [f"z(x, y) = w · h(x, y) + b{label}, h being {read}", _affine(family)]


def _scalar(family: Family) -> list[str]:
    appended = ", which the family appends" if _appends(family) else ""
    read = f"the final hidden state {POOL[family.setting('pool')]}{appended}"
    row = f"row {family.setting('row')} of " if family.setting("row") != -1 else ""
    head = f"{row}the head {family.setting('head')!r}"
    return [f"z(x, y) = f(h(x, y)), f {head}, h {read}", _affine(family)]


def _appends(family: Family) -> bool:
    return bool(family.setting("append")) or family.setting("append_id") != -1


def _affine(family: Family) -> str:
    sign = "−" if family.setting("sign") == -1 else ""
    if not family.setting("normalize"):
        return f"r(x, y) = {sign}z(x, y)"
    centred = "z(x, y) − μ" if family.setting("center") else "z(x, y)"
    if family.setting("normalizer"):
        return f"r(x, y) = {sign}({centred}) / s, μ and s of the checkpoint's own buffers"
    mean, deviation = family.setting("mean"), family.setting("std")
    return f"r(x, y) = {sign}({centred}) / s, μ = {mean:g}, s = {deviation:g}"


def _gated(family: Family) -> list[str]:
    place = "the prompt's end" if family.setting("gate_at") == "header" else "the last token"
    gates = "softmax of a gate" if family.setting("softmax") else "raw outputs of a gate"
    transform = " after its transform matrix" if family.setting("transform") else ""
    if bins := family.setting("bins"):
        transform += f", each the mean of a distribution over {bins} points of [0, 1]"
    return [
        f"r(x, y) = Σ_k g_k · v_k(x, y), g the {gates} read at {place}, v the "
        f"{len(family.attributes)} objectives read at the last token{transform}: "
        + listing(family.attributes, shown=30)
    ]


def _pair_head(_: Family) -> list[str]:
    return ["ℓ(a, b) = f(h_x, h_a) − f(h_x, h_b), f the mean of the head's tasks, h the states "
            "that begin the prompt, a and b, read side by side"]  # fmt: skip


def _pair_prompt(family: Family) -> list[str]:
    first, second = family.setting("tokens")
    return [f"ℓ(a, b) = logit({first!r}) − logit({second!r}) of the next token after a prompt that "
            "shows a, then b"]  # fmt: skip


def _logprob(family: Family) -> list[str]:
    compatible = family.setting("rewardbench_compatible")
    beta = 1.0 if compatible else family.setting("beta")
    found = LOGPROB[family.setting("norm")].format(beta=beta)
    tokens = "as RewardBench counts its tokens" if compatible else "each token of the answer once"
    return [f"{found}; {tokens}"]


def _served(family: Family) -> list[str]:
    return [f"r(x, y) is the raw score its server gives ({family.title}), computed there"]


def _judge(_: Family) -> list[str]:
    return ["ℓ(a, b) = 1000 for the verdict [[A]], −1000 for [[B]], 0 for [[C]], a and b being "
            "shown in this order; σ(ℓ) is then exactly 1, 0 or ½"]  # fmt: skip


DEFINITIONS: Mapping[str, Callable[[Family], list[str]]] = {
    "classifier": _classifier,
    "scalar": _scalar,
    "gated": _gated,
    "pair-head": _pair_head,
    "pair-prompt": _pair_prompt,
    "logprob": _logprob,
    "served": _served,
    "judge": _judge,
}
