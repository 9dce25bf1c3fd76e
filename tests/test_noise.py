"""A reward model's own noise as a tie band."""

import numpy as np
import pytest

from evalkit.data import Message
from evalkit.errors import MissingError
from evalkit.scoring import RunSettings
from evalkit.scoring.noise import BATCH, measure
from tests.fake_reward_model import FakeRewardModel, chats, fake_spec
from tests.shared_data import DEMO_RM, spec_of
from tests.workspace_copy import copy_workspace, evalkit


class Noisy(FakeRewardModel):
    """Every row of a batch moves by a thousandth for each row beside it."""

    def rewards(self, batch):
        return super().rewards(batch) + 1e-3 * (len(batch) - 1)


def test_the_band_is_the_widest_range_of_one_conversation():
    found = measure(
        fake_spec(), chats(*map(str, range(16))), settings=RunSettings(load=Noisy().load)
    )
    assert found.conversations == 16
    assert found.band == pytest.approx(1e-3 * (BATCH - 1))


def test_a_model_without_noise_has_no_band():
    assert (
        measure(
            fake_spec(), chats("a", "b", "a"), settings=RunSettings(load=FakeRewardModel().load)
        ).band
        == 0
    )
    assert (
        measure(
            fake_spec(), chats("a", "a"), settings=RunSettings(load=FakeRewardModel().load)
        ).conversations
        == 1
    )


def test_without_a_single_reward_there_is_no_band():
    model = FakeRewardModel(unrenderable=["a"])
    with pytest.raises(MissingError, match="none of these conversations"):
        measure(fake_spec(), chats("a"), settings=RunSettings(load=model.load))


def test_float32_moves_in_its_last_bits_and_bfloat16_more():
    rows = [(Message("user", "Hi"), Message("assistant", "x " * n)) for n in range(1, 25)]
    bands = [
        measure(spec_of(DEMO_RM, dtype=dtype), rows, settings=RunSettings(device="cpu")).band
        for dtype in ("float32", "bfloat16")
    ]
    assert bands[0] < 1e-4 < bands[1]
    assert np.all(np.isfinite(bands))


def test_the_command_says_which_band_to_use(tmp_path):
    done = evalkit(
        copy_workspace(tmp_path), "reward-models", "noise", "ckpt_1200", "--rm", "demo-rm",
        "--rows", "8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "8 conversations scored alone" in done.stdout
    assert "--ties margin=" in done.stdout
