"""StepRecord: one decision and its window, through JSON and back."""

import json
import math
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tying import Pointers
from tying.errors import InputError
from tying.training.record import MEASUREMENTS, StepRecord, perplexity

finite = st.floats(allow_nan=False, allow_infinity=False)
norms = st.just(()) | st.tuples(finite, finite, finite, finite)
counts = st.integers(0, 2**53)
pointers = st.integers(0, 14).map(list(Pointers.all(4)).__getitem__)

records = st.builds(
    StepRecord,
    decision=st.integers(0, 10**6),
    iteration=counts,
    num_iterations=st.integers(1, 2**53),
    pointers=pointers,
    previous_pointers=pointers,
    layer=st.none() | st.integers(0, 3),
    action=st.none() | st.integers(0, 9) | st.lists(st.integers(0, 3), min_size=4, max_size=4),
    explored=st.none() | st.booleans(),
    action_value=st.none() | finite,
    frozen=st.booleans(),
    window_share=finite,
    previous_loss=finite,
    previous_share=finite,
    tokens=counts,
    train_loss=finite,
    last_loss=finite,
    reward_loss=finite,
    evaluated=st.booleans(),
    fork_loss=st.none() | finite,
    block_params=st.integers(1, 2**53),
    independent_block_params=st.integers(1, 2**53),
    gradient_norms=norms,
    similarities=norms,
    gradient_similarities=norms,
    agreements=norms,
    reward=finite,
    reward_terms=st.dictionaries(st.sampled_from(["improvement", "params", "baseline"]), finite),
    param_weight=finite,
    train_s=finite,
    evaluate_s=finite,
)


def made(**values: Any) -> StepRecord:
    tied = Pointers((0, 0))
    return StepRecord(
        **{
            **{"decision": 0, "iteration": 4, "num_iterations": 4, "pointers": tied, "previous_pointers": tied},
            "block_params": 1,
            **values,
        }
    )


@given(records)
def test_a_record_survives_json_exactly(record: StepRecord) -> None:
    values = json.loads(json.dumps(record.to_dict()))
    assert values.keys() == {field.name for field in fields(StepRecord)}
    back = StepRecord.from_dict(values)
    assert back == record
    assert isinstance(back.pointers, Pointers) and isinstance(back.previous_pointers, Pointers)


def test_a_diagnostic_may_be_infinite_and_a_loss_may_not() -> None:
    for value in (math.inf, -math.inf):
        record = made(action_value=value)
        assert StepRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
        with pytest.raises(InputError, match="reward_loss: input should be a finite number"):
            StepRecord.from_dict(made(reward_loss=value).to_dict())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("reward_loss", value) for value in (None, "x", True, [1.0])],
        *[("pointers", value) for value in (None, "01", [0.0, 0.0], 3, {"0": 0})],
        *[("similarities", value) for value in ("ab", [0.5], {"a": 1}, [None, 1.0])],
        *[("iteration", value) for value in ("22", -1, 2.5, True)],
        *[("block_params", 0), ("independent_block_params", 0), ("frozen", 1), ("action", "0"), ("train_s", None)],
        *[("reward_terms", value) for value in ([], {"a": "b"})],
    ],
)
def test_entries_of_another_type_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        StepRecord.from_dict({**made().to_dict(), name: value})


def test_other_keys_are_left_out_and_missing_ones_are_named() -> None:
    values = made().to_dict()
    assert StepRecord.from_dict({**values, "wall_s": 3.0, "agent": {}}) == made()
    for name in values:
        with pytest.raises(InputError, match=f"{name}: field required"):
            StepRecord.from_dict({other: value for other, value in values.items() if other != name})


def test_wrong_pointers_are_refused() -> None:
    with pytest.raises(InputError, match=r"pointers\[1\] = 2"):
        StepRecord.from_dict({**made().to_dict(), "previous_pointers": [0, 2]})


def test_a_record_is_a_value() -> None:
    with pytest.raises(FrozenInstanceError):
        made().reward = 1.0  # type: ignore[misc]


def test_measurements_are_fields_and_decisions_are_no_measurements() -> None:
    names = {field.name for field in fields(StepRecord)}
    assert set(MEASUREMENTS) < names
    decided = {
        "decision",
        "iteration",
        "pointers",
        "action",
        "explored",
        "action_value",
        "frozen",
        "reward",
        "reward_terms",
    }
    assert not decided & set(MEASUREMENTS)


def test_what_follows_from_a_record() -> None:
    record = made(block_params=25, independent_block_params=100)
    assert record.param_share == 0.25
    assert not record.changed
    assert replace(record, previous_pointers=Pointers((0, 1))).changed


def test_perplexity_is_finite_for_every_finite_loss() -> None:
    assert perplexity(2.0) == math.exp(2.0)
    assert math.isfinite(perplexity(1e9))
    assert math.isnan(perplexity(math.nan))
