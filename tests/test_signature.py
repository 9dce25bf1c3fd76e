import string
from dataclasses import fields, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evalkit.accuracy import Signature as OfAccuracy
from evalkit.best_of_n import Signature as OfBestOfN
from evalkit.calibrate import Signature as OfCalibration
from evalkit.card import Signature as OfCard
from evalkit.errors import InputError
from evalkit.leaderboard import Signature as OfLeaderboard
from evalkit.plan import AfterSignature
from evalkit.plan import Signature as OfPlan
from evalkit.signature import Line, Signature
from evalkit.track import Signature as OfTrack

PLAIN = Signature(
    checkpoint="ckpt_1200#0123456789ab",
    reference="gpt4_refs#ba9876543210",
    rm="demo-rm#0123456789abcdef",
    dtype="float32",
    max_length=8192,
    overlong="error",
    benchmark="",
    n=160,
    left_out=0,
    truncated=0,
    missing="error",
    ties="margin=0.25",
    clusters="prompt",
    output="bradley-terry",
    human="",
    length_pool=(),
    temperature="1.0",
    ci="logit-t,betting,t;0.95",
    resamples=0,
    seed=0,
    version="1.2.3",
)
HOSTILE = st.text(max_size=12) | st.text(alphabet="|:%\n\r\t #=;é雪\x00\u2028" + string.digits)
COUNT = st.integers(0, 2**70)


BY_TYPE = {
    "str": HOSTILE,
    "int": COUNT,
    "int | None": st.none() | COUNT,
    "tuple[str, ...]": st.lists(HOSTILE.filter(bool), max_size=3).map(tuple),
}
EVERY = {
    "accuracy": OfAccuracy,
    "best-of-n": OfBestOfN,
    "calibrate": OfCalibration,
    "card": OfCard,
    "compare": Signature,
    "leaderboard": OfLeaderboard,
    "plan": OfPlan,
    "settle": AfterSignature,
    "track": OfTrack,
}


def signatures(of):
    return st.builds(of, **{field.name: BY_TYPE[field.type] for field in fields(of)})


def test_every_kind_of_signature_is_known_by_its_name():
    assert {of.KIND: of for of in Line.__subclasses__()} == EVERY


@pytest.mark.parametrize("kind", EVERY)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_every_kind_is_one_line_that_parses_back(kind, data):
    signature = data.draw(signatures(EVERY[kind]))
    line = str(signature)
    assert len(line.splitlines()) == 1
    assert line.startswith(f"{kind}|")
    assert EVERY[kind].parse(line) == signature


@given(signatures(Signature))
@example(replace(PLAIN, checkpoint="a|n:7|b:%7C\n#%"))
@example(replace(PLAIN, version="1.0 "))
@example(replace(PLAIN, length_pool=("a,b", "c")))
@settings(max_examples=150, deadline=None)
def test_what_needs_quoting_parses_back(signature):
    assert Signature.parse(str(signature)) == signature


def test_signature_names_every_choice_in_its_fixed_order():
    assert str(PLAIN) == (
        "compare|checkpoint:ckpt_1200#0123456789ab|reference:gpt4_refs#ba9876543210"
        "|rm:demo-rm#0123456789abcdef|dtype:float32|max_length:8192|overlong:error|benchmark:"
        "|n:160|left_out:0|truncated:0|missing:error"
        "|ties:margin=0.25|clusters:prompt|output:bradley-terry|human:|length_pool:"
        "|temperature:1.0|ci:logit-t,betting,t;0.95|resamples:0|seed:0|version:1.2.3"
    )


def test_signature_parses_with_the_line_break_it_was_printed_with():
    assert Signature.parse(f"  {PLAIN}\n") == PLAIN


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (str(PLAIN), ""),
        (str(PLAIN), "compare"),
        ("compare|", ""),
        ("compare|", "track|"),
        ("|seed:0", ""),
        ("|seed:0", "|seed:0|seed:0"),
        ("|seed:0", "|seed:0|colour:red"),
        ("|seed:0", "|seed"),
        ("|seed:0", "|seed:"),
        ("|n:160", "|n:many"),
        ("|n:160", "|n:1.5"),
    ],
)
def test_malformed_signature_is_refused(old, new):
    with pytest.raises(InputError):
        Signature.parse(str(PLAIN).replace(old, new))
