"""Coverage is its formula, its measure keeps nothing, and suites ask for it by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from bench_tiny import tiny

from benchmarks import job, suite
from benchmarks.exploration import COLUMNS, coverage
from benchmarks.xqc_arms import SoftXQC
from era_rl.runs.folder import read_json
from era_rl.runs.settings import SettingsError
from era_rl.sb3.run import Run


def test_coverage_is_the_mean_log_distance_to_the_third_neighbour() -> None:
    """mean ln(1 + d_3) of states over std; constant features do not count."""
    states, std = torch.randn(40, 3), torch.tensor([2.0, 0.5, 0.0])
    scaled = states[:, :2].double() / std[:2]
    distances = (scaled[:, None] - scaled[None]).norm(dim=-1).sort(dim=1).values[:, 3]
    assert coverage(states, std) == pytest.approx(distances.log1p().mean().item(), rel=1e-4)
    assert coverage(torch.ones(10, 3), std) == pytest.approx(0.0, abs=1e-3)
    assert coverage(3.0 * states, std) > coverage(states, std)


def test_a_run_measures_it_where_its_suite_asks_and_hashes_stay_else(tmp_path: Path) -> None:
    """A row a check of coverage, in a run of an arm's own class, which the run's folder names."""
    plain = suite.load(tiny(tmp_path)).runs[1]
    assert "exploration" not in plain.config
    asked = ("steps: 300", "exploration: true\nsteps: 300")
    sizes = "{learning_starts: 50, batch_size: 16, policy_kwargs: {net_arch: [8]}}"
    own = f"algo: xqc_era, class: 'benchmarks.xqc_arms:SoftXQC', params: {sizes},"
    path = tiny(tmp_path, asked, ("algo: sac_era,", own))
    run = suite.load(path).runs[1]
    assert run.config_hash != plain.config_hash
    folders = ["--results", str(tmp_path / "r"), "--scratch", str(tmp_path / "s")]
    job.main([path, run.name, *folders])
    table = read_json(run.result(tmp_path / "r"))["exploration"]
    assert set(table) == set(COLUMNS)
    assert table["timesteps"] == [*range(6, 301, 6)]
    assert np.isfinite(np.array(table["coverage"], dtype=float)).all()
    agent, env = Run.load(run.folder(tmp_path / "s") / suite.AGENT)
    env.close()
    assert isinstance(agent, SoftXQC)
    assert agent.first_coefficient == 0.01


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("benchmarks.xqc_arms:Soft", "has no attribute 'Soft'"),
        ("benchmarks.nowhere:Soft", "No module named 'benchmarks.nowhere'"),
        ("benchmarks.xqc_arms:SoftActorLoss", "must be an algorithm of Stable-Baselines3's kind"),
    ],
)
def test_a_class_that_is_none_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        suite.load(tiny(tmp_path, ("algo: sac_era,", f"algo: sac_era, class: '{name}',")))
