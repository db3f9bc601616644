"""Suites are data: each committed one can be read, and what does not fit is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from bench_tiny import made_up, tiny

from benchmarks import suite
from era_rl.runs.folder import write_json
from era_rl.runs.settings import SettingsError


@pytest.mark.parametrize("name", suite.names())
def test_every_suite_can_be_read(name: str) -> None:
    loaded = suite.load(name)
    names = [run.name for run in loaded.all]
    assert len(set(names)) == len(names) > 0
    for task in loaded.content.get("tasks", {}):
        low, high = loaded.score_range(task)
        assert low < high
    assert all(arm["about"] for arm in loaded.content.get("arms", {}).values())


def test_published_results_are_of_their_suites_as_they_are_now() -> None:
    """No change of the zoo's entries may leave a result behind under another configuration."""
    results = Path(suite.__file__).parent / "results"
    names = {path.name for path in results.iterdir()} & set(suite.names())
    done = [run.is_done(results / name) for name in names for run in suite.load(name).runs]
    assert any(done)


def test_the_main_suites_compare_five_seeds() -> None:
    core = suite.load("entropy-ablation")
    assert len({run.arm for run in core.runs}) == 6
    assert len(core.runs) == 6 * 2 * 5
    gym = suite.load("gym-ppo")
    assert len(gym.runs) == 4 * 2 * 5
    assert len({run.config["env"] for run in gym.runs}) == 4


def test_arms_of_the_ablation_differ_in_entropy_alone() -> None:
    runs = [run for run in suite.load("entropy-ablation").runs if run.seed == 0]
    for task in ("walker-walk", "cheetah-run"):
        rest = [_without_entropy(run.config["settings"]) for run in runs if run.task == task]
        assert rest == [rest[0]] * 6
        assert rest[0]["layer_norm"] is True


def _without_entropy(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with LayerNorm where SACERA has it; the baseline's policy has it."""
    rest = {k: v for k, v in settings.items() if k not in ("compile", "floor", "slack", "policy")}
    kwargs = rest.pop("policy_kwargs", {})
    return {**rest, **kwargs}


def test_params_are_merged_into_the_zoos_settings(tmp_path: Path) -> None:
    params = "params: {policy_kwargs: {net_arch: [8]}, learning_starts: 7}"
    (run, *_) = suite.load(tiny(tmp_path, ("algo: sac,", f"algo: sac, {params},"))).runs
    assert run.config["settings"]["policy_kwargs"] == {"layer_norm": True, "net_arch": [8]}
    assert run.config["settings"]["learning_starts"] == 7
    stock = [run for run in suite.load("dmc-hard").runs if run.arm == "sac-stock"]
    assert all("policy_kwargs" not in run.config["settings"] for run in stock)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("algo: sac_era", "algo: sac_eras", "sac_eras"),
        ("nats_per_dim: -0.5", "params: {target_entrpy: 1}", "target_entrpy"),
        ("baseline: sac", "baseline: ppo", "ppo"),
        ("seeds:", "sedes:", "sedes"),
        ("env: Pendulum-v1", "envs: Pendulum-v1", "envs"),
        ("baseline: sac\n", "", "baseline must be given"),
        (", range: [-1600, 0]", "", "pendulum: range must be given"),
        ("steps: 300\n", "", "steps must be given"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "must not give pendulum-sac-seed0 twice"),
    ],
    ids=[
        *("algo", "setting", "baseline", "key", "task key"),
        *("no baseline", "no range", "no steps", "doubled seed"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        suite.load(tiny(tmp_path, (old, new)))


def lending(folder: Path, *changes: tuple[str, str]) -> tuple[str, str]:
    """Write a suite, and another whose arm ``era`` is the first one's; return their paths."""
    first = Path(tiny(folder, *changes)).rename(folder / "first.yaml")
    arm = ("era: {algo: sac_era, nats_per_dim: -0.5, about: floor}", f"era: {{suite: {first}}}")
    seeds = ("seeds: [0, 1]", "seeds: [1]")
    return str(first), str(Path(tiny(folder, arm, seeds)).rename(folder / "second.yaml"))


def test_an_arm_may_be_another_suites_whose_runs_and_results_it_takes(tmp_path: Path) -> None:
    first, second = map(suite.load, lending(tmp_path))
    own, lent = second.runs
    assert (own.name, own.borrowed) == ("pendulum-sac-seed1", False)
    assert lent.name == "pendulum-era-seed1"
    (original,) = (run for run in first.runs if run.name == lent.name)
    assert lent.config_hash == original.config_hash
    results_folder, scratch = tmp_path / "results", tmp_path / "scratch"
    assert lent.result(results_folder / "second") == original.result(results_folder / "first")
    assert lent.folder(scratch / "second") == original.folder(scratch / "first")
    assert own.result(results_folder / "second").parent == results_folder / "second"
    commands = [
        run.command(results_folder / name, scratch / name)
        for run, name in ((lent, "second"), (original, "first"))
    ]
    assert commands[0] == commands[1]
    assert second.content["arms"]["era"]["about"] == "floor"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [0, 1]", "seeds: [0]", "pendulum-era-seed1 must be a run of the arm's suite too"),
        ("steps: 300", "steps: 200", "with the same steps"),
        ("  era: {algo", "  eras: {algo", "'era' is unknown; close: eras"),
        ("  pendulum: {", "  pendulums: {", "pendulum-era-seed1 must be a run"),
    ],
    ids=["seed", "config", "arm", "task"],
)
def test_an_arm_that_another_suite_has_not_like_that_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    _, second = lending(tmp_path)
    text = Path(tmp_path / "first.yaml").read_text()
    assert old in text
    (tmp_path / "first.yaml").write_text(text.replace(old, new))
    with pytest.raises(SettingsError, match=message):
        suite.load(second)


def test_a_longer_run_is_lent_up_to_the_steps_and_a_scheduled_one_refused(tmp_path: Path) -> None:
    """Of a run of 300 steps 200 are seen, since nothing in it depends on how many there are."""
    _, second = lending(tmp_path)
    Path(second).write_text(Path(second).read_text().replace("steps: 300", "steps: 200"))
    lent = suite.load(second).runs[1]
    (tmp_path / "first").mkdir()
    record = made_up(lent, 1.0) | {"acting": {}}
    lent.result(tmp_path / "second").write_text(json.dumps(record))
    seen = lent.read(tmp_path / "second")
    assert seen is not None
    assert "acting" not in seen
    assert seen["trace"]["timesteps"] == seen["evaluation"]["timesteps"] == [*range(30, 201, 30)]
    assert seen["evaluation"]["returns"] == record["evaluation"]["returns"][:6]
    scheduled = "nats_per_dim: -0.5, params: {learning_rate: lin_0.001}"
    text = Path(tmp_path / "first.yaml").read_text().replace("nats_per_dim: -0.5", scheduled)
    (tmp_path / "first.yaml").write_text(text)
    with pytest.raises(SettingsError, match="if no schedule runs over them"):
        suite.load(second)


def test_a_suite_that_lends_to_itself_or_changes_what_is_lent_is_refused(tmp_path: Path) -> None:
    era = "era: {algo: sac_era, nats_per_dim: -0.5, about: floor}"
    with pytest.raises(SettingsError, match="era: suite must be another one"):
        suite.load(tiny(tmp_path, (era, "era: {suite: tiny}")))
    with pytest.raises(SettingsError, match="nats_per_dim"):
        suite.load(tiny(tmp_path, (era, "era: {suite: pilot, nats_per_dim: 0}")))


def test_unknown_suites_are_refused_with_the_close_ones() -> None:
    with pytest.raises(SettingsError, match="'pilots' is unknown; close: pilot"):
        suite.load("pilots")


def test_the_hash_changes_with_the_config_and_not_with_the_seed(tmp_path: Path) -> None:
    first = suite.load(tiny(tmp_path)).runs
    second = suite.load(tiny(tmp_path, ("nats_per_dim: -0.5", "nats_per_dim: -0.4"))).runs
    first, second = ([run for run in runs if run.arm == "era"] for runs in (first, second))
    assert first[0].config_hash == first[1].config_hash
    assert first[0].config_hash != second[0].config_hash
    assert first[0].folder(tmp_path) != second[0].folder(tmp_path)


def test_results_of_another_config_are_refused(tmp_path: Path) -> None:
    run = suite.load(tiny(tmp_path)).runs[0]
    assert run.read(tmp_path) is None
    content = {"config_hash": run.config_hash, "config": run.config}
    write_json(run.result(tmp_path), content)
    assert run.read(tmp_path) == content
    changed = suite.load(tiny(tmp_path, ("steps: 300", "steps: 400"))).runs[0]
    with pytest.raises(SettingsError, match=r"other settings \(steps: 300, now 400\)"):
        changed.read(tmp_path)
