"""The contract of the family: what every algorithm composes with, and what holds for each."""

import copy
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contract import FEATURES, REFUSED, learn, matrix
from sb3_family import (
    CASE_IDS,
    CASES,
    FAMILY,
    OFF_POLICY,
    ON_POLICY,
    REPLAY,
    make_env,
    same_parameters,
    small,
    some_states,
    space_of,
)
from sb3_toys import NormalisedExtractor
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor

from era_rl.sb3 import EntropyMonitor

PAGE = Path(__file__).parents[2] / "docs" / "composing.md"


@pytest.mark.parametrize("name", REPLAY)
def test_losses_are_in_the_logger_after_each_update(name: str) -> None:
    """For callbacks that read ``name_to_value``, as with the hosts; on a CPU."""
    seen: list[float] = []

    def note(locals_: Any, _: Any) -> bool:
        seen.append(locals_["self"].logger.name_to_value["train/critic_loss"])
        return True

    small(name).learn(39, callback=note)  # updates from step 21 on, logs at step 40
    assert all(seen[21:])


@pytest.mark.parametrize("name", ["CrossQERA", "XQCERA"])
def test_what_is_asked_after_training_is_of_running_statistics(name: str) -> None:
    """entropy and distribution of a row are those it has in a batch; statistics stay as learned.

    So they are where a callback asks, at the end of training.
    """
    model = small(name)
    policy: Any = model.policy
    states, asked = torch.as_tensor(some_states(model, 5)), []

    class Asks(BaseCallback):
        def _on_step(self) -> bool:
            return True

        @torch.no_grad()
        def _on_training_end(self) -> None:
            before = copy.deepcopy(policy)
            torch.testing.assert_close(policy.entropy(states[:1]), policy.entropy(states)[:1])
            rows = states[:1], states
            one, of_all = (policy.get_distribution(row).distribution for row in rows)
            torch.testing.assert_close(one.stddev, of_all.stddev[:1])
            assert same_parameters(policy, before)
            asked.append(policy)

    ask = Asks()
    model.learn(30, callback=ask)
    ask.on_training_end()
    assert len(asked) == 2


# Dynamo looks at .grad of every input, with the warning hidden but not from an "error" filter
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("name", FAMILY)
def test_contract(name: str, feature: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Every algorithm takes every feature, or refuses it in the words that the documentation has."""
    if feature == "compile":
        request.getfixturevalue("traced")
    words = REFUSED.get((name, feature))
    if words is None:
        FEATURES[feature](name, tmp_path)
        return
    with pytest.raises((ValueError, TypeError, AssertionError), match=re.escape(words)):
        FEATURES[feature](name, tmp_path)


def test_the_documentation_has_the_matrix() -> None:
    """``ERA_WRITE_MATRIX=1`` writes it anew."""
    head, _, _ = PAGE.read_text().partition("\n| |")
    page = f"{head}\n{matrix()}\n"
    if os.environ.get("ERA_WRITE_MATRIX"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page


class Trained(NamedTuple):
    """A small model after training, which tests that change nothing share."""

    name: str
    space: spaces.Space
    model: Any
    monitor: EntropyMonitor


@pytest.fixture(scope="module", params=CASES, ids=CASE_IDS)
def trained(request: pytest.FixtureRequest) -> Trained:
    name, space = request.param
    monitor = EntropyMonitor(check_freq=20)
    return Trained(name, space, learn(small(name, space), callback=monitor), monitor)


def test_one_seed_is_one_training_with_or_without_a_monitor(trained: Trained) -> None:
    again = learn(small(trained.name, trained.space))
    assert same_parameters(again.policy, trained.model.policy)


@pytest.mark.parametrize("name", FAMILY)
def test_policy_kwargs_stay_the_users_own(name: str, tmp_path: Path) -> None:
    model = small(name)
    model.save(tmp_path / "model")
    # SB3 compares those given with those stored; A2C adds its optimizer to them
    given = {**model.policy_kwargs, "net_arch": [16, 16]}
    loaded = FAMILY[name].load(tmp_path / "model", policy_kwargs=given, device="cpu")
    assert same_parameters(model.policy, loaded.policy)
    del given["options"]  # ours
    FAMILY[name].load(tmp_path / "model", policy_kwargs=given, device="cpu")


@pytest.mark.parametrize("name", FAMILY)
def test_refuses_a_policy_without_a_head(name: str) -> None:
    host = next(
        base for base in FAMILY[name].__mro__ if base.__module__.startswith(("stable", "sb3_"))
    )
    alias, policy = next(iter(host.policy_aliases.items()))
    with pytest.raises(ValueError, match=f"policy={policy.__name__} must be one of '{alias}'"):
        small(name, None, policy)


def test_a_policy_alone_is_saved_copied_and_loaded(trained: Trained, tmp_path: Path) -> None:
    policy = trained.model.policy
    policy.save(str(tmp_path / "policy"))
    loaded = type(policy).load(str(tmp_path / "policy"), device="cpu")
    obs = np.zeros((1, *policy.observation_space.shape), np.float32)
    for other in (loaded, copy.deepcopy(policy)):
        assert same_parameters(policy, other)
        assert np.array_equal(
            *(each.predict(obs, deterministic=True)[0] for each in (policy, other))
        )


def test_a_deterministic_action_is_the_mode(trained: Trained) -> None:
    model = trained.model
    obs = some_states(model, 5)
    modes, _ = model.predict(obs, deterministic=True)
    assert np.array_equal(modes, model.predict(obs, deterministic=True)[0])
    if isinstance(trained.space, spaces.Box):
        raw = model.policy.raw_params(torch.as_tensor(obs))
        loc = model.policy.dist_params(raw)[0].detach().numpy()
        assert modes == pytest.approx(loc, abs=1e-6)  # scaled to the bounds and back
        return
    logits = model.policy.head(model.policy.raw_params(torch.as_tensor(obs)))
    parts = logits.split(model.policy.head.num_actions, dim=-1)
    expected = torch.stack([part.argmax(-1) for part in parts], dim=-1).numpy()
    assert np.array_equal(modes.reshape(expected.shape), expected)


@pytest.mark.parametrize("name", FAMILY)
def test_batch_statistics_learn_in_training_only(name: str) -> None:
    model = learn(
        small(name, policy_kwargs={"features_extractor_class": NormalisedExtractor}),
        callback=EntropyMonitor(check_freq=5),
    )
    before = copy.deepcopy(model.policy.state_dict())
    model.predict(some_states(model))
    model.policy.set_training_mode(False)
    model.policy.entropy(torch.as_tensor(some_states(model)))
    assert not model.policy.training
    if name != "MaskablePPOERA":  # which has no delta to learn from the entropy
        model.policy.set_training_mode(True)
        model._entropy(torch.as_tensor(some_states(model)))
    assert all(torch.equal(before[k], v) for k, v in model.policy.state_dict().items())


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "MaskablePPOERA"])
def test_runs_callbacks(name: str, tmp_path: Path) -> None:
    evaluation = EvalCallback(Monitor(make_env(space_of(name))), eval_freq=16, verbose=0)
    learn(small(name), callback=[evaluation, CheckpointCallback(16, str(tmp_path))])
    assert np.isfinite(evaluation.last_mean_reward)
    assert len(list(tmp_path.glob("*.zip"))) >= 2


@pytest.mark.parametrize("name", FAMILY)
def test_logs_under_its_own_name(name: str, tmp_path: Path) -> None:
    learn(small(name, tensorboard_log=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}_1"]


LEARNED: dict[str, Any] = {"floor": "gaussian", "delta": "auto", "target_entropy": 0.6}


@pytest.mark.parametrize("name", [*OFF_POLICY, *ON_POLICY])
class TestLearnedDelta:
    def test_brings_the_mean_entropy_to_the_target(self, name: str) -> None:
        """On a stationary problem: the networks do not move, delta does."""
        model: Any = small(name, learning_rate=0.0, **LEARNED)
        model.delta_optimizer.param_groups[0]["lr"] *= 5.0
        for module in model.policy.modules():
            if hasattr(module, "momentum"):  # nor do running statistics
                module.momentum = 0.0
        # the on-policy algorithms update delta once a minibatch or rollout
        model.learn(20 + 80 if name in OFF_POLICY else 700)
        # the off-policy algorithms bring it there over the states that they have seen
        replay = getattr(model, "replay_buffer", None)
        states = some_states(model, 2_000) if replay is None else replay.observations[:100, 0]
        mean = model._entropy(torch.as_tensor(states)).mean().item()
        assert mean == pytest.approx(0.6, rel=0.02)
        assert 0.0 < model.delta_learner().item() < model.delta_learner.delta_max

    def test_is_saved_and_restored(self, name: str, tmp_path: Path) -> None:
        model: Any = learn(small(name, **LEARNED))
        model.save(tmp_path / "model")
        loaded = FAMILY[name].load(tmp_path / "model", device="cpu")
        assert model.delta_learner().item() > 0.0
        assert torch.equal(loaded.delta_learner(), model.delta_learner())
        assert torch.equal(loaded.policy.head.delta, model.policy.head.delta)
        assert loaded.delta_optimizer.state_dict() == model.delta_optimizer.state_dict()
        parameters = model.get_parameters()
        before = {  # files had both beside the policy
            "delta_learner": model.delta_learner.state_dict(),
            "delta_optimizer": model.delta_optimizer.state_dict(),
        }
        other: Any = small(name, **LEARNED)
        other.set_parameters({**parameters, **before}, device="cpu")
        assert torch.equal(other.delta_learner(), model.delta_learner())
