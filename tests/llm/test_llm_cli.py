"""The era-llm command, and the data sets it reads."""

import json
import re
import shlex
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
from accelerate.commands.launch import launch_command_parser
from datasets import Dataset

import era_llm.calibrate as calibrate
import era_llm.train as train
from era_llm.cli import main
from era_llm.rewards import math_reward
from era_llm.toy import toy_tokenizer
from era_llm.train import TrainArguments, load_rows


@pytest.fixture
def saved(toy: Any, tmp_path: Path) -> tuple[str, str]:
    """Save a toy model and a data file whose columns have names of their own."""
    toy.save_pretrained(tmp_path / "model")
    toy_tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"question": f"{n}=", "sum": str(n)} for n in range(10, 26)]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    return str(tmp_path / "model"), str(data)


COLUMNS = ["--prompt-column", "question", "--answer-column", "sum", "--max-new-tokens", "4"]


def test_eval_command(saved: tuple[str, str], tmp_path: Path) -> None:
    model, data = saved
    output = tmp_path / "scores.json"
    command = ["eval", "--model", model, "--data", data, *COLUMNS, "--output", str(output)]
    rest = "--limit 3 --samples 32 --k 1 32 --reward era_llm.toy.toy_reward"
    main([*command, *rest.split()])
    scores = json.loads(output.read_text())
    assert scores["prompts"] == 3
    assert 0 < scores["avg@32"] == pytest.approx(scores["pass@1"])
    assert scores["pass@1"] < scores["pass@32"] <= 1


def test_calibrate_command(
    saved: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = saved
    output = tmp_path / "thresholds.json"
    sample, entropies = (
        create_autospec(function, side_effect=function)
        for function in (calibrate.sample, calibrate.response_entropies)
    )
    monkeypatch.setattr(calibrate, "sample", sample)
    monkeypatch.setattr(calibrate, "response_entropies", entropies)
    command = ["calibrate", "--model", model, "--data", data, *COLUMNS, "--limit", "2"]
    choices = "--samples 5 --temperature 0.7 --top-ratio 0.4 --tokens bottom --batch-size 3"
    main([*command, *choices.split(), "--output", str(output)])
    found = json.loads(output.read_text())
    assert found["responses"] == 10
    assert [call.args[2:] for call in sample.call_args_list] == [("10=", 5), ("11=", 5)]
    sampling = {"temperature": 0.7, "max_new_tokens": 4, "batch_size": 3}
    assert all(call.kwargs == sampling for call in sample.call_args_list)
    assert {call.args[4:] for call in entropies.call_args_list} == {(0.4, "bottom", 0.7)}
    assert 0 < found["era_entropy_low"] < found["era_entropy_high"]
    assert found["quantiles"]["0.1"] == found["era_entropy_low"]


def test_train_command(saved: tuple[str, str], tmp_path: Path) -> None:
    model, data = saved
    config = tmp_path / "run.yaml"
    config.write_text("bf16: false\nuse_cpu: true\nreport_to: none\nmax_completion_length: 4\n")
    command = ["train", "--config", str(config), "--model_name_or_path", model]
    command += ["--dataset_name", data, "--output_dir", str(tmp_path / "out")]
    rest = (
        "--prompt_column question --answer_column sum --reward era_llm.toy.toy_reward --max_steps 2 "
        "--per_device_train_batch_size 4 --num_generations 4 --logging_steps 1 --save_steps 2 "
        "--era_entropy_low 2.6 --era_tokens top --dtype float32 --disable_tqdm true"
    )
    main([*command, *rest.split()])
    assert (tmp_path / "out" / "model.safetensors").exists()
    state = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["log_history"][0]["era/frac_low"] == 1.0


QUESTION = [{"content": "What is 17 + 17?", "role": "user"}]
# as on the Hub: the original and the deduplicated set that the recipe takes
DAPO = {
    "data_source": "math_dapo",
    "prompt": QUESTION,
    "ability": "MATH",
    "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
    "extra_info": {"index": "9a9b6eb4"},
}
DAPO_PROCESSED = {
    **DAPO,
    "prompt": QUESTION[0]["content"],
    "solution": "34",
    "source_prompt": QUESTION,
}


@pytest.mark.parametrize(
    ("row", "answer_column", "chat"),
    [
        pytest.param(DAPO, "reward_model.ground_truth", False, id="DAPO-Math-17k"),
        pytest.param(DAPO_PROCESSED, "solution", True, id="DAPO-Math-17k-Processed"),
    ],
)
def test_the_layouts_of_dapo_math_become_prompt_and_answer(
    tmp_path: Path, row: dict[str, Any], answer_column: str, chat: bool
) -> None:
    data = str(tmp_path / "data.parquet")
    Dataset.from_list([row, row]).to_parquet(data)
    arguments = TrainArguments(data, answer_column=answer_column, chat=chat)
    rows = load_rows(arguments)
    assert set(rows.column_names) == {"prompt", "answer"}
    assert rows[1] == {"prompt": QUESTION, "answer": "34"}
    completion = [{"role": "assistant", "content": "34.\nAnswer: 34"}]
    assert math_reward([completion], [rows[1]["answer"]]) == [1.0]


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "1+1", "solution": {"text": "2"}}))
    with pytest.raises(ValueError, match=r"answer_column must name a column .* got 'answer'"):
        load_rows(TrainArguments(str(data)))
    with pytest.raises(ValueError, match=r"answer_column must name a column .* got 'solution.x'"):
        load_rows(TrainArguments(str(data), answer_column="solution.x"))


class _Stop(Exception):  # noqa: N818
    """Ends a command where its trainer would be built."""


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Record what the train command would build a trainer from, and stop it there."""
    record: dict[str, Any] = {}

    def stop(model: str, reward: Any, config: Any, **rest: Any) -> None:
        record.update(model=model, reward=reward, config=config, **rest)
        raise _Stop

    monkeypatch.chdir(tmp_path)  # where the folder of the run is held
    monkeypatch.setattr(train, "GRPOERATrainer", stop)
    monkeypatch.setattr(train, "load_rows", lambda options: record.update(data=options))
    return record


ON_CPU = ["--use_cpu", "true", "--bf16", "false"]


def test_the_recipe_parses_into_the_papers_settings(built: dict[str, Any]) -> None:
    with pytest.raises(_Stop):
        main(["train", "--recipe", "qwen2.5-math-7b", *ON_CPU])
    config, data = built["config"], built["data"]
    assert built["model"] == "Qwen/Qwen2.5-Math-7B"
    assert built["reward"] is math_reward
    assert (data.dataset_name, data.dataset_config) == ("open-r1/DAPO-Math-17k-Processed", "all")
    assert (data.prompt_column, data.answer_column, data.chat) == ("prompt", "solution", True)
    assert (config.num_generations, config.learning_rate, config.beta) == (8, 1e-6, 0.0)
    assert (config.era_entropy_low, config.era_entropy_high, config.era_k) == (0.45, 3.0, 2.0)
    with pytest.raises(ValueError, match="recipe must be one of"):
        main(["train", "--recipe", "none"])


def test_the_recipes_launch_lines_give_the_papers_batch(built: dict[str, Any]) -> None:
    recipe = Path(train.__file__).with_name("recipes") / "qwen2.5-math-7b.yaml"
    lines = re.findall(r"accelerate launch (.+)", recipe.read_text().replace("\\\n#", ""))
    processes = []
    for line in lines:
        launch = launch_command_parser().parse_args(shlex.split(line))
        assert (launch.module, launch.training_script) == (True, "era_llm")
        with pytest.raises(_Stop):
            main([*launch.training_script_args, *ON_CPU])
        config = built["config"]
        batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
        assert batch * launch.num_processes == 256 * config.num_generations
        assert (built["peft_config"] is not None) is (launch.num_processes == 1)
        processes.append(launch.num_processes)
    assert processes == [8, 1]
