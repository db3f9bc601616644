"""Arguments of ERAActor and DeltaLoss at random: refused by name, or the floor holds."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import nn
from torchrl.data import Bounded, Categorical, OneHot

from era_rl.core import PolicyOptions
from era_rl.torchrl import DeltaLoss, ERAActor, raw_dim
from tests.fuzzing import NUMBERS, built, examples, raw_inputs

FEW, MANY = 25, 1_000
SPECS = {"bounded": Bounded(-2.0, 1.0, (2,)), "categorical": Categorical(4), "one-hot": OneHot(3)}
ARGUMENTS = {
    "bounded": {
        "target_entropy": st.floats(-4.0, 1.3) | NUMBERS | st.sampled_from(["auto", "low"]),
        "floor": st.sampled_from(["exact", "gaussian", "x"]),
        "delta": NUMBERS,
        "log_std_min": st.floats(-20.0, 0.0) | NUMBERS,
        "slack": st.none() | st.floats(0.0, 1.0) | NUMBERS,
    },
    "categorical": {
        "target_entropy": st.floats(0.0, 1.3) | NUMBERS | st.just("auto"),
        "target_entropy_fraction": st.floats(0.0, 1.0) | NUMBERS,
    },
}
ARGUMENTS["one-hot"] = ARGUMENTS["categorical"]


VOID = pytest.mark.filterwarnings("ignore:target_entropy=.* has no effect")


def _actor(kind: str, **arguments: Any) -> tuple[ERAActor, int]:
    spec, options = SPECS[kind], PolicyOptions(**arguments)
    return ERAActor(nn.Identity(), spec, options), raw_dim(spec, options)


def fuzz(kind: str, count: int) -> None:
    @examples(count)
    @given(st.fixed_dictionaries({}, optional=ARGUMENTS[kind]))
    def check(arguments: dict[str, Any]) -> None:
        made = built(lambda **kwargs: _actor(kind, **kwargs), arguments)
        if made is None:
            return
        actor, width = made
        raw = raw_inputs(20, width).float()
        data = actor(TensorDict({"observation": raw}, [len(raw)]))
        entropy = actor.entropy(data.select("observation"))
        assert data["action"].isfinite().all()
        if arguments.get("floor") != "gaussian":
            floor = actor.target_entropy
            assert (entropy >= floor - 1e-5 * (1.0 + abs(floor))).all()

    check()


@VOID
@pytest.mark.parametrize("kind", SPECS)
def test_an_actor_refuses_its_arguments_by_name_or_holds_its_floor(kind: str) -> None:
    fuzz(kind, FEW)


@pytest.mark.slow
@VOID
@pytest.mark.parametrize("kind", SPECS)
def test_an_actor_refuses_or_holds_over_many_arguments(kind: str) -> None:
    fuzz(kind, MANY)


@examples(FEW)
@given(st.fixed_dictionaries({"initial": st.floats(0.0, 6.0) | NUMBERS}))
def test_delta_refuses_what_is_infeasible_by_name(arguments: dict[str, Any]) -> None:
    actor, _ = _actor("bounded", floor="gaussian")
    loss = built(lambda **kwargs: DeltaLoss(actor, **kwargs), arguments)
    if loss is not None:
        assert 0.0 <= actor.gaussian_head.delta <= loss.delta.delta_max
