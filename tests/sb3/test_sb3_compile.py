"""SACERA under torch.compile, and without a compiler."""

import copy
import shutil
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from sb3_toys import small_sacera, states, trained

from era_rl.sb3 import SACERA, EntropyMonitor

COMPILERS = ("c++", "g++", "clang++")


@pytest.mark.parametrize(
    "options",
    [{}, {"slack": 0.3}, {"floor": "gaussian"}, {"floor": "gaussian", "distribution": "tanh"}],
    ids=str,
)
def test_sampling_has_no_graph_break_and_equals_eager(options: dict[str, Any]) -> None:
    model = small_sacera(**options)
    raw = model.actor.raw_params(states(model, 32)).detach().requires_grad_()
    results = []
    compiled = torch.compile(model.actor.sample_actions, fullgraph=True, backend="aot_eager")
    for function in (model.actor.sample_actions, compiled):
        torch.manual_seed(2)
        actions, loc, log_std = function(raw)
        (gradient,) = torch.autograd.grad(actions.sum(), raw)
        results.append((actions, loc, log_std, gradient))
    for eager, other in zip(*results, strict=True):
        torch.testing.assert_close(eager, other, rtol=1e-6, atol=1e-6)


def test_warns_and_trains_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match=r"compile=True needs a C\+\+ compiler"):
        without = trained(small_sacera(compile=True))
    eager = trained(small_sacera()).policy.state_dict()
    for name, value in without.policy.state_dict().items():
        assert torch.equal(value, eager[name])


def test_copies_of_a_compiled_policy_sample_on_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    # nothing is compiled before the first sample
    policy = small_sacera(compile=True).policy
    for other in (copy.deepcopy(policy), cloudpickle.loads(cloudpickle.dumps(policy))):
        assert other.actor.sample_actions.__self__ is other.actor
        assert other.predict(np.zeros((3, 2), np.float32))[0].shape == (3, 2)


@pytest.mark.slow
# Dynamo looks at .grad of every input, with the warning hidden but not from an "error" filter
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_trains_compiled_and_saves(tmp_path: Any) -> None:
    if not any(shutil.which(name) for name in COMPILERS):
        pytest.skip(f"no C++ compiler on PATH: none of {', '.join(COMPILERS)}")
    monitor = EntropyMonitor(check_freq=5)
    compiled = trained(small_sacera(compile=True, slack=0.3), callback=monitor)
    assert monitor.minimum >= compiled.policy.entropy_floor
    # Inductor draws other random numbers than eager mode, for which the rest must be equal
    raw = compiled.actor.raw_params(states(compiled, 32)).detach()
    actions, loc, log_std = compiled.actor.sample_actions(raw)
    torch.testing.assert_close((loc, log_std), compiled.actor.head.loc_log_std(raw))
    assert actions.abs().max() <= 1.0
    assert actions.std() > 0.1
    compiled.save(tmp_path / "model")
    obs = states(compiled, 10).numpy()
    loaded = SACERA.load(tmp_path / "model", device="cpu")
    assert loaded.compile
    assert (
        loaded.predict(obs, deterministic=True)[0] == compiled.predict(obs, deterministic=True)[0]
    ).all()
