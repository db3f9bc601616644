"""What holds for every ERA algorithm on every action space it takes, as it does for its host."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_family import (
    BOX,
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
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

from era_rl.sb3 import EntropyMonitor

every_case = pytest.mark.parametrize(("name", "space"), CASES, ids=CASE_IDS)
STEPS = 48


def learn(model: Any, **kwargs: Any) -> Any:
    """Train, check that the policy moved and stayed finite, and return the model."""
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(STEPS * model.n_envs, **kwargs)
    after = model.policy.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in after)
    assert all(p.isfinite().all() for p in model.policy.parameters())  # a floor may be -inf
    return model


@pytest.mark.parametrize("name", REPLAY)
def test_losses_are_in_the_logger_after_each_update(name: str) -> None:
    """For callbacks that read ``name_to_value``, as with the hosts; on a CPU."""
    seen: list[float] = []

    def note(locals_: Any, _: Any) -> bool:
        seen.append(locals_["self"].logger.name_to_value["train/critic_loss"])
        return True

    small(name).learn(39, callback=note)  # updates from step 21 on, logs at step 40
    assert all(seen[21:])


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


def test_holds_its_floor_on_every_visited_state(trained: Trained) -> None:
    assert len(trained.monitor.rows) == -(-trained.model.num_timesteps // 20)
    # float32: a discrete floor is met by a solve that ends within rounding of it
    assert trained.monitor.margin >= (0.0 if trained.space is BOX else -1e-6)


def test_one_seed_is_one_training_with_or_without_a_monitor(trained: Trained) -> None:
    again = learn(small(trained.name, trained.space))
    assert same_parameters(again.policy, trained.model.policy)


@every_case
def test_a_loaded_model_predicts_and_resumes_exactly(
    name: str, space: spaces.Space, tmp_path: Path
) -> None:
    model = learn(small(name, space))
    model.save(tmp_path / "model")
    env, noise = copy.deepcopy(model.get_env()), (np.random.get_state(), torch.get_rng_state())
    kwargs = {} if name in REPLAY else {"force_reset": False}
    loaded = FAMILY[name].load(tmp_path / "model", env=env, device="cpu", **kwargs)
    assert same_parameters(model.policy, loaded.policy)
    assert loaded.policy.target_entropy == model.policy.target_entropy
    for deterministic in (True, False):
        actions = []
        for each in (model, loaded):
            torch.manual_seed(1)
            actions.append(each.predict(some_states(model), deterministic=deterministic)[0])
        assert np.array_equal(*actions)
    if name in REPLAY:
        model.save_replay_buffer(tmp_path / "buffer")
        loaded.load_replay_buffer(tmp_path / "buffer")
        loaded._last_obs = copy.deepcopy(model._last_obs)
    if name == "RecurrentPPOERA":  # the host saves none, and begins with zeros
        loaded._last_lstm_states = model._last_lstm_states
    for each in (model, loaded):
        np.random.set_state(noise[0])
        torch.set_rng_state(noise[1])
        if each is model:
            each.env = copy.deepcopy(env)
        each.learn(STEPS, reset_num_timesteps=False)
    assert same_parameters(model.policy, loaded.policy)


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
def test_several_environments_and_normalised_observations(name: str) -> None:
    envs = make_vec_env(lambda: make_env(space_of(name)), 3, seed=0)
    env = VecNormalize(envs, norm_reward=name != "XQCERA")  # which scales rewards itself
    monitor = EntropyMonitor(check_freq=10)
    learn(small(name, env), callback=monitor)
    assert monitor.margin >= -1e-6


@pytest.mark.parametrize(
    "name", [name for name in FAMILY if name not in ("CrossQERA", "XQCERA", "MaskablePPOERA")]
)
@pytest.mark.parametrize("policy", ["MultiInputPolicy", "CnnPolicy"])
def test_dict_and_image_observations(name: str, policy: str) -> None:
    discrete = name == "DiscreteSACERA"
    if policy == "CnnPolicy":
        env: Any = FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, discrete=discrete)
        extractor: dict[str, Any] = {"features_dim": 8}
    else:
        env = SimpleMultiObsEnv(discrete_actions=discrete)
        extractor = {"cnn_output_dim": 8}
    model = small(name, env, policy, policy_kwargs={"features_extractor_kwargs": extractor})
    monitor = EntropyMonitor(check_freq=10)
    learn(model, callback=monitor)
    assert monitor.margin >= (-1e-6 if discrete else 0.0)


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


@pytest.mark.parametrize("name", REPLAY)
def test_n_step_returns(name: str) -> None:
    learn(small(name, n_steps=3))


# CrossQ and XQC have no policy for Dict observations
@pytest.mark.parametrize("name", ["SACERA", "TQCERA", "DiscreteSACERA"])
def test_hindsight(name: str) -> None:
    env = BitFlippingEnv(n_bits=3, continuous=name in OFF_POLICY, max_steps=5)
    learn(
        small(
            name, env, "MultiInputPolicy", replay_buffer_class=HerReplayBuffer, learning_starts=30
        )
    )


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
