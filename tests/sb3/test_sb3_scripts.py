"""What scripts written for the hosts ask of the classes here, and what they are told."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces
from sb3_family import BOX, DISCRETE, FAMILY, MULTI_DISCRETE, OFF_POLICY, ON_POLICY, make_env, small
from sb3_toys import TargetEnv, small_sacera, states
from stable_baselines3 import SAC
from stable_baselines3.common.distributions import kl_divergence
from stable_baselines3.common.logger import configure

from era_rl.sb3 import payoff


@pytest.mark.parametrize("name", OFF_POLICY)
def test_the_automatic_temperature_is_taken_with_one_warning(name: str) -> None:
    with pytest.warns(UserWarning, match="ent_coef='auto_0.1' has no effect") as warned:
        model: Any = small(name, ent_coef="auto_0.1")
    assert len(warned) == 1
    assert model.ent_coef == 0.0


@pytest.mark.parametrize("name", [*ON_POLICY, "MaskablePPOERA"])
def test_an_on_policy_bonus_is_a_number(name: str) -> None:
    """It was a TypeError in the first update."""
    with pytest.raises(ValueError, match="ent_coef='auto' must be a number"):
        small(name, DISCRETE, ent_coef="auto")
    assert small(name, DISCRETE, ent_coef=0.01).ent_coef == 0.01  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["SACERA", "PPOERA"])
def test_a_std_to_begin_with_is_said_to_have_no_effect(name: str) -> None:
    with pytest.warns(UserWarning, match="log_std_init.*has no effect: target_entropy sets"):
        small(name, policy_kwargs={"log_std_init": -1.0})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        # a normal truncated at its mode has ln sigma + ln(pi e / 2) / 2 nats, here at e^-8 and e^-1
        ("SACERA", {"target_entropy": -200.0}, "target_entropy=-200 .* above -14.5484 nats"),
        ("PPOERA", {"log_std_min": -1.0, "target_entropy": -0.7}, "log_std_min=-1 alone .* -0.548"),
        # Eq. 11 is about the normal before: 2 (-2 + ln(2 pi e) / 2) less delta
        (
            "PPOERA",
            {"floor": "gaussian", "log_std_min": -2.0, "target_entropy": -1.3, "delta": 0.1},
            "above -1.26212 nats",
        ),
    ],
)
def test_a_floor_that_nothing_can_reach_is_said_to_have_no_effect(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.warns(UserWarning, match=message) as warned:
        small(name, **options)
    assert len(warned) == 1
    small(name, **{**options, "target_entropy": -0.5})


@pytest.mark.parametrize(
    ("saved", "loading", "space"),
    [
        ("PPOERA", "SACERA", BOX),
        ("SACERA", "PPOERA", BOX),
        ("TQCERA", "SACERA", BOX),
        ("SACERA", "XQCERA", BOX),
        ("PPOERA", "MaskablePPOERA", DISCRETE),
        ("PPOERA", "A2CERA", BOX),
        ("A2CERA", "PPOERA", DISCRETE),
    ],
)
def test_a_file_of_another_algorithm_is_named(
    saved: str, loading: str, space: spaces.Space, tmp_path: Path
) -> None:
    """PPO and A2C load each other's files in silence; PPOERA and A2CERA do not."""
    small(saved, space).save(tmp_path / "model")
    message = f"the file was saved by {saved}, another algorithm than {loading}"
    with pytest.raises(ValueError, match=message):
        FAMILY[loading].load(tmp_path / "model", device="cpu")


@pytest.mark.parametrize("from_file", [False, True])
def test_training_may_begin_with_the_networks_of_sac(from_file: bool, tmp_path: Path) -> None:
    """The mode of both is tanh(mu(s)); what the temperature has is left out."""
    kwargs: dict[str, Any] = {"policy_kwargs": {"net_arch": [16, 16]}, "learning_starts": 20}
    sac: Any = SAC(
        "MlpPolicy", TargetEnv(horizon=10), seed=0, device="cpu", buffer_size=99, **kwargs
    )
    sac.learn(30)
    sac.save(tmp_path / "sac")
    model = small_sacera(seed=1)
    given = tmp_path / "sac" if from_file else sac.get_parameters()
    model.set_parameters(given, exact_match=False)
    obs = states(model, 20)
    models: list[Any] = [model, sac]
    modes = [each.policy._predict(obs, True) for each in models]
    assert torch.equal(*modes)
    for ours, theirs in zip(model.critic.parameters(), sac.critic.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    model.learn(40)
    assert model.policy.entropy(obs).min().item() >= model.target_entropy - 1e-5
    with pytest.raises(ValueError, match="False to leave out ent_coef_optimizer, which SACERA"):
        model.set_parameters(given)
    for exact_match in (True, False):  # as the hosts do
        with pytest.raises(ValueError, match="nothing is an invalid object name"):
            model.set_parameters({**model.get_parameters(), "nothing": {}}, exact_match)


@pytest.mark.parametrize("name", ["A2CERA", "SACERA"])
def test_a_model_is_loaded_with_the_policy_kwargs_that_it_was_made_with(
    name: str, tmp_path: Path
) -> None:
    """A2C writes its optimizer into policy_kwargs; what is compared at ``load`` is the user's part."""
    model = small(name, BOX, policy_kwargs={"net_arch": [8]})
    model.save(tmp_path / "model.zip")
    type(model).load(tmp_path / "model.zip", policy_kwargs={"net_arch": [8]})
    with pytest.raises(ValueError, match="policy kwargs do not equal the stored"):
        type(model).load(tmp_path / "model.zip", policy_kwargs={"net_arch": [16]})


@pytest.mark.parametrize("name", ["A2CERA", "SACERA"])
def test_custom_objects_leave_the_options_as_they_were(name: str, tmp_path: Path) -> None:
    """SB3's way past what cannot be unpickled; of ``policy_kwargs`` it took the floor's kind too."""
    model = small(name, BOX, policy_kwargs={"net_arch": [8]}, distribution="tanh")
    model.save(tmp_path / "model.zip")
    custom = {"policy_kwargs": {"net_arch": [8]}, "learning_rate": 1e-5}
    loaded = type(model).load(tmp_path / "model.zip", custom_objects=custom)
    assert loaded.options == model.options
    assert loaded.learning_rate == 1e-5
    assert custom == {"policy_kwargs": {"net_arch": [8]}, "learning_rate": 1e-5}


@pytest.mark.parametrize("name", ["A2CERA", "SACERA"])
def test_what_reset_returns_is_named_by_the_host(name: str) -> None:
    """``predict(env.reset())`` of gymnasium is SB3's error, not one about ragged arrays."""
    model = small(name, BOX)
    obs = model.observation_space.sample()
    with pytest.raises(ValueError, match="mixing Gym API"):
        model.predict((obs, {}))


@pytest.mark.parametrize(
    ("name", "options", "planned"),
    [
        # rollouts of 8 steps of 2 environments: 8 passes forward, and 3 epochs of 4 minibatches
        ("PPOERA", {"n_envs": 2, "n_steps": 8, "n_epochs": 3, "batch_size": 4}, 2 * (8 + 12)),
        ("A2CERA", {"n_envs": 2, "n_steps": 8}, 2 * (8 + 1)),
        ("SACERA", {"gradient_steps": 2}, 2 * 32),
        ("SACERA", {"train_freq": (1, "episode")}, 0),
    ],
    ids=str,
)
def test_compiling_is_decided_by_the_calls_that_are_planned(
    name: str,
    options: dict[str, Any],
    planned: int,
    compiled_as_is: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By vectorised steps, a million steps of 32 environments were not compiled."""
    model: Any = small(name, BOX, **{"verbose": 1, **options})
    assert model._planned_calls(32) == planned
    for least, said in ((planned + 1, "eager"), (planned, "compiled")):
        if planned:
            limit = "MIN_CALLS_TO_COMPILE" if name in ON_POLICY else "MIN_UPDATES_TO_COMPILE"
            monkeypatch.setattr(payoff, limit, least)
        model.set_logger(configure(None, ["stdout"]))
        capsys.readouterr()
        model._setup_learn(32)
        words = f"{said if planned else 'eager'}, as {planned or 'unknown'} calls are planned"
        assert words in capsys.readouterr().out
        assert (model._compiled is True) == (said == "compiled" and planned > 0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in (*OFF_POLICY, *ON_POLICY)),
        ("SACERA", {"distribution": "tanh"}),
        ("PPOERA", {"distribution": "normal"}),
    ],
)
def test_sigma_at_an_observation(name: str, options: dict[str, Any]) -> None:
    """``stddev`` is that of samples; for "tanh", as in SB3, of what is squashed."""
    model: Any = small(name, BOX, **options)
    obs, _ = model.policy.obs_to_tensor(model.observation_space.sample()[None])
    model.policy.set_training_mode(False)
    with torch.no_grad():
        ours = model.policy.get_distribution(obs)
        other = model.policy.get_distribution(-obs)
        samples = model.policy._predict(obs.expand(20_000, -1))
    std = ours.distribution.stddev
    assert std.shape == (1, 2)
    spread = samples.atanh() if options == {"distribution": "tanh"} else samples
    torch.testing.assert_close(spread.std(0, keepdim=True), std, rtol=0.03, atol=0.0)
    divergence = kl_divergence(ours, other)
    assert divergence.shape == (1, 2)
    assert divergence.min().item() >= 0.0
    assert kl_divergence(ours, ours).abs().max().item() < 1e-6


def test_the_divergence_of_discrete_policies_is_the_hosts() -> None:
    model: Any = small("PPOERA", MULTI_DISCRETE)
    obs, _ = model.policy.obs_to_tensor(make_env(MULTI_DISCRETE).reset(seed=0)[0][None])
    ours, other = model.policy.get_distribution(obs), model.policy.get_distribution(-obs)
    assert kl_divergence(ours, other).item() >= 0.0


def test_a_printed_policy_shows_its_floor() -> None:
    """print(model.policy) has one line of each head, with the floor in force."""
    model = small_sacera()
    model.target_entropy = -1.5
    shown = re.findall(r"\w+Head\(.*\)", str(model.policy))
    assert shown == [
        "TruncatedGaussianHead(action_dim=2, floor=exact, log_std_max=0.0, log_std_min=-8.0, "
        "min_entropy_per_dim=-inf, target_entropy=-1.5)"
    ]
    discrete = str(small("PPOERA", DISCRETE, target_entropy=0.5).policy)
    assert "MultiCategoricalHead(num_actions=[4], target_entropy=0.5)" in discrete
