"""Rewards against hand-made windows."""

import itertools
import math

import pytest

from envs.reward import Outcome, RewardConfig, terms
from tying.records import Window


def outcome(loss: float = 2.0, last_loss: float = 2.0, share: float = 0.1) -> Outcome:
    window = Window(10, 100, 2.5, last_loss, loss, block_params=30, independent_block_params=60)
    return Outcome(previous_loss=2.3, window=window, window_share=share)


def test_improvement_is_the_fall_of_log_perplexity_less_the_price_of_parameters() -> None:
    found = terms(RewardConfig(name="improvement", param_weight=0.4), outcome())
    assert found == pytest.approx({"improvement": 0.3, "params": -0.4 * 0.5 * 0.1})


def test_level_is_the_loss_weighed_by_the_window() -> None:
    assert terms(RewardConfig(name="level", param_weight=0.0), outcome()) == pytest.approx({"level": -0.2, "params": 0.0})


def test_improvements_of_a_run_add_up_to_its_whole_however_it_is_cut() -> None:
    curve = [5.0, 4.0, 3.5, 3.2, 3.1]
    for stride in (1, 2, 4):
        points = curve[::stride]
        total = 0.0
        for before, after in itertools.pairwise(points):
            window = Window(1, 1, after, after, after, 60, 60)
            total += sum(terms(RewardConfig(param_weight=0.2), Outcome(before, window, stride / 4)).values())
        assert total == pytest.approx(5.0 - 3.1 - 0.2)


@pytest.mark.parametrize(("perplexity", "reward"), [(3.0, -3.0), (9.99, -9.99), (11.0, -10.0), (1e30, -10.0)])
def test_paper_is_clipped_minus_perplexity_of_the_training_batch(perplexity: float, reward: float) -> None:
    assert terms(RewardConfig(name="paper"), outcome(last_loss=math.log(perplexity))) == pytest.approx({"paper": reward})
