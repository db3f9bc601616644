"""The language-model companion under faults: kills, damaged checkpoints, two processes, no GPU."""

import json
import random
import shutil
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_helpers import options

from benchmarks.llm import toy_runs
from benchmarks.llm.toy import toy_tokenizer
from era_llm import train
from era_llm.cli import main
from era_llm.resume import checkpoint_to_resume, damaged_file
from era_llm.trl import GRPOERAConfig
from era_rl.runs.folder import locked


@pytest.fixture
def command(toy: Any, tmp_path: Path) -> list[str]:
    """Return the command of a training run with a checkpoint after every step."""
    toy.save_pretrained(tmp_path / "model")
    toy_tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"prompt": f"{n}=", "answer": str(n)} for n in range(10, 26)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = (
        f"train --model_name_or_path {tmp_path}/model --dataset_name {tmp_path}/data.jsonl "
        f"--reward benchmarks.llm.toy.toy_reward --device cpu --bf16 false "
        "--report_to none --max_completion_length 4 --per_device_train_batch_size 4 --save_steps 1 "
        "--num_generations 4 --steps 5 --disable_tqdm true --dtype float32 --logging_steps 1"
    )
    return words.split()


def _out(tmp_path: Path) -> list[str]:
    return ["--out", str(tmp_path / "out")]


def _resume(tmp_path: Path) -> list[str]:
    return ["--resume", str(tmp_path / "out")]


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def _without_cuda(arguments: list[str]) -> None:
    """Run the command in a fork, where CUDA that an earlier test began to use cannot be used."""
    torch.cuda.is_available = lambda: False
    main(arguments)


def test_killed_at_a_random_moment_a_run_goes_on_and_ends(
    command: list[str], tmp_path: Path
) -> None:
    """SIGKILL while checkpoints are written, which transformers does in place."""
    out, moments, kills = tmp_path / "out", random.Random(2), 0
    for attempt in range(2):
        before = _steps(out)
        process = get_context("fork").Process(
            target=_without_cuda, args=([*command, *(_resume if attempt else _out)(tmp_path)],)
        )
        process.start()
        while process.is_alive() and len(_steps(out)) < len(before) + 2:
            time.sleep(0.002)
        process.join(moments.uniform(0.0, 0.1))
        kills += process.is_alive()
        process.kill()
        process.join()
    assert kills >= 1
    whole = [step for step in _steps(out) if damaged_file(out / f"checkpoint-{step}") is None]
    assert whole
    assert main([*command, *_resume(tmp_path)]) == 0
    state = json.loads((out / "checkpoint-5" / "trainer_state.json").read_text())
    assert [log["step"] for log in state["log_history"]] == [1, 2, 3, 4, 5]
    assert (out / "model.safetensors").exists()
    assert damaged_file(out / "checkpoint-5") is None


@pytest.fixture(scope="module")
def checkpoint(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from llm_helpers import trainer

    from era_llm.trl import GRPOERATrainer

    folder = tmp_path_factory.mktemp("run")
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    trainer(GRPOERATrainer, GRPOERAConfig(**options(folder, **saving)), toy).train()
    return folder / "checkpoint-1"


FILES = ["trainer_state.json", "model.safetensors", "optimizer.pt", "rng_state.pth"]


@pytest.mark.parametrize("name", FILES)
def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(
    name: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        shutil.copytree(checkpoint, tmp_path / f"checkpoint-{step}")
    newest = tmp_path / "checkpoint-2"
    assert checkpoint_to_resume("true", str(tmp_path)) == str(newest)
    (newest / name).write_bytes((newest / name).read_bytes()[:-10])
    assert checkpoint_to_resume(True, str(tmp_path)) == str(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoint_to_resume(True, str(tmp_path)) == str(tmp_path / "checkpoint-1")
    assert f"checkpoint-2 is damaged ({name}): looking for an older" in capsys.readouterr().err
    with pytest.raises(ValueError, match=rf"checkpoint-2' is no whole checkpoint \({name}\)"):
        checkpoint_to_resume(str(newest), str(tmp_path))
    shutil.rmtree(tmp_path / "checkpoint-1")
    with pytest.raises(ValueError, match="resume_from_checkpoint=true: no whole checkpoint in"):
        checkpoint_to_resume("True", str(tmp_path))


def test_without_being_asked_a_run_begins_anew_where_there_is_none(checkpoint: Path) -> None:
    for asked in (None, False, "false"):
        assert checkpoint_to_resume(asked, str(checkpoint)) is None
        with pytest.raises(ValueError, match="holds a run: resume it, or take another folder"):
            checkpoint_to_resume(asked, str(checkpoint.parent))
    assert checkpoint_to_resume(str(checkpoint), "elsewhere") == str(checkpoint)


def test_what_cannot_run_is_refused_before_a_model_is_loaded(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train, "GRPOERATrainer", lambda *_, **__: pytest.fail("a model is loaded"))
    assert main([*command, *_resume(tmp_path)]) == 2
    assert "no whole checkpoint in" in capsys.readouterr().err
    with locked(tmp_path / "out"):
        assert main([*command, *_out(tmp_path)]) == 2
    assert "worked on by another process" in capsys.readouterr().err
    assert _steps(tmp_path / "out") == []


def test_the_toy_comparison_holds_its_folder_and_names_damaged_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(tmp_path), pytest.raises(ValueError, match="worked on by another process"):
        toy_runs.compare(tmp_path, [0], 1)
    monkeypatch.setattr(toy_runs, "pretrained_toy", lambda seed: pytest.fail("all is done"))
    for arm in toy_runs.ARMS:
        (tmp_path / f"{arm}-seed0.json").write_text('{"initial": ')
    with pytest.raises(ValueError, match=r"grpo-seed0\.json is truncated or no JSON .*: remove it"):
        toy_runs.compare(tmp_path, [0], 1)


def test_an_output_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="must be a writable folder"):
        toy_runs.compare(tmp_path / "file", [0], 1)


def test_a_damaged_configuration_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("max_steps: [")
    assert main(["train", "--config", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "mine.yaml" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what needs a GPU, and there is one")
def test_half_precision_without_a_gpu_is_refused(tmp_path: Path) -> None:
    """TRL's default precision; the message is transformers'."""
    with pytest.raises(ValueError, match=r"doesn't support bf16/gpu.*use_cpu"):
        GRPOERAConfig(**options(tmp_path, bf16=True, use_cpu=False))
