"""The era-llm command, and the data sets it reads."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
from accelerate.commands.launch import launch_command_parser
from datasets import Dataset

import era_llm.calibrate as calibrate
import era_llm.data as data_module
import era_llm.train as train
from benchmarks.llm.toy import toy_tokenizer
from era_llm.cli import main
from era_llm.data import DataArguments, conversation, load_rewards, load_rows
from era_llm.rewards import math_reward


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
    command = ["eval", "--model", model, "--data", data, *COLUMNS, "--out", str(output)]
    rest = "--limit 3 --samples 32 --k 1 32 --reward benchmarks.llm.toy.toy_reward"
    assert main([*command, *rest.split()]) == 0
    scores = json.loads(output.read_text())
    assert scores["prompts"] == 3
    assert 0 < scores["avg@32"] == pytest.approx(scores["pass@1"])
    assert scores["pass@1"] < scores["pass@32"] <= 1
    few = "--limit 1 --samples 9 --reward benchmarks.llm.toy.toy_reward"
    assert main([*command, *few.split()]) == 0
    assert {"pass@1", "pass@8"} == {k for k in json.loads(output.read_text()) if "pass" in k}


def test_a_result_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for command in ("eval", "calibrate"):
        below = tmp_path / "file" / "scores.json"
        for out, why in ((tmp_path, "a file: it is a folder"), (below, "a writable folder")):
            assert main([command, "--model", "none", "--data", "none", "--out", str(out)]) == 2
            assert f"must be {why}" in capsys.readouterr().err


def test_calibrate_command(
    saved: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = saved
    output = tmp_path / "thresholds.json"
    names = ("sample", "response_entropies", "scoring")
    spies = {n: create_autospec(f := getattr(calibrate, n), side_effect=f) for n in names}
    for name, spy in spies.items():
        monkeypatch.setattr(calibrate, name, spy)
    command = ["calibrate", "--model", model, "--data", data, *COLUMNS, "--limit", "2"]
    choices = "--samples 5 --temperature 0.7 --top-ratio 0.4 --tokens bottom --batch-size 3 "
    choices += "--reward benchmarks.llm.toy.toy_reward"
    assert main([*command, *choices.split(), "--out", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["responses"] == 10
    (drawn,) = spies["sample"].call_args_list
    assert drawn.args[2:] == (["10=", "11="], 5)
    assert drawn.kwargs == {"temperature": 0.7, "max_new_tokens": 4, "batch_size": 3}
    assert {c.args[2:] for c in spies["response_entropies"].call_args_list} == {(0.4, "bottom")}
    assert [c.args[1] for c in spies["scoring"].call_args_list] == [0.7]
    assert 0 <= found["sharpened"] <= found["positive"] < 10
    assert 0 <= found["reward"] <= 1
    assert 0 < found["era_entropy_low"] < found["era_entropy_high"]
    assert found["quantiles"]["0.1"] == found["era_entropy_low"]


def test_train_command(saved: tuple[str, str], tmp_path: Path) -> None:
    model, data = saved
    config = tmp_path / "run.yaml"
    config.write_text("bf16: false\nreport_to: none\nmax_completion_length: 4\n")
    command = ["train", "--config", str(config), "--model_name_or_path", model]
    command += ["--dataset_name", data, "--out", str(tmp_path / "out"), "--device", "cpu"]
    rest = (
        "--prompt_column question --answer_column sum --reward benchmarks.llm.toy.toy_reward --steps 2 "
        "--per_device_train_batch_size 4 --num_generations 4 --logging_steps 1 --save_steps 2 "
        "--era_entropy_low 2.6 --era_tokens top --dtype float32 --disable_tqdm true"
    )
    assert main([*command, *rest.split()]) == 0
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
    arguments = DataArguments(data, answer_column=answer_column, chat=chat)
    rows = load_rows(arguments)
    assert rows[1] == {**row, "prompt": QUESTION, "answer": "34"}


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "1+1", "solution": {"text": "2"}}))
    with pytest.raises(ValueError, match=r"answer_column must name a column .* got 'answer'"):
        load_rows(DataArguments(str(data), answer_column="answer"))
    with pytest.raises(ValueError, match=r"answer_column must name a column .* got 'solution.x'"):
        load_rows(DataArguments(str(data), answer_column="solution.x"))


GIVEN: dict[str, Any] = {}


def keep_columns(completions: list[str], question: list[str], sum: list[str], **_: Any) -> list:
    """A reward that needs the columns by their own names."""
    GIVEN.update(question=question, sum=sum)
    return [float(len(text)) for text in completions]


def test_several_rewards_are_weighed_and_get_every_column(
    saved: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """total = sum of weight x reward; a module of the working folder is found."""
    model, data = saved
    (tmp_path / "mine.py").write_text("from test_llm_cli import keep_columns\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in sys.path if p not in ("", str(tmp_path))])
    command = ["eval", "--model", model, "--data", data, *COLUMNS, "--limit", "2", "--samples", "3"]
    command += ["--k", "1", "--reward", "mine.keep_columns", "benchmarks.llm.toy.toy_reward"]
    assert main([*command, "--reward-weights", "1", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["avg@3"] == 1.0
    assert GIVEN == {"question": ["10="] * 3 + ["11="] * 3, "sum": ["10"] * 3 + ["11"] * 3}
    assert main([*command, "--reward-weights", "-1", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["avg@3"] == 0.0
    assert main([*command, "--reward-weights", "1"]) == 2
    assert "--reward-weights must be 2 numbers, got [1.0]" in capsys.readouterr().err


def test_rewards_that_cannot_be_given_what_they_need_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"toy_reward' needs the columns \['answer'\], the data set"
    ):
        load_rewards(["benchmarks.llm.toy.toy_reward"], ["prompt"])
    for name in ("era_llm.data.DataArguments", "math.pi", "math"):
        with pytest.raises(ValueError, match=rf"reward '{name}' must name a function, not"):
            load_rewards([name], [])
    for name in ("nowhere.reward", "era_llm.rewards.nothing"):
        with pytest.raises(
            ValueError, match=rf"reward '{name}' cannot be loaded: .*nowhere|nothing"
        ):
            load_rewards([name], [])


def test_prompts_become_conversations_with_a_system_prompt() -> None:
    user, system = {"role": "user", "content": "2+2"}, {"role": "system", "content": "Add."}
    assert conversation("2+2") == "2+2"
    assert conversation("2+2", chat=True) == [user]
    assert (
        conversation("2+2", system="Add.") == conversation([user], system="Add.") == [system, user]
    )


def test_training_evaluates_on_a_data_set_of_its_own(
    saved: tuple[str, str], built: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = saved
    monkeypatch.setattr(train, "load_rows", load_rows)
    command = ["train", "--model_name_or_path", model, "--dataset_name", data, *ON_CPU]
    command += ["--eval_dataset_name", data, "--prompt_column", "question", "--out", "out"]
    command += ["--answer_column", "sum", "--reward", "benchmarks.llm.toy.toy_reward"]
    with pytest.raises(_Stop):
        main([*command, "--system_prompt", "Add."])
    assert built["eval_dataset"][0] == built["train_dataset"][0]
    assert built["eval_dataset"][0]["prompt"][0] == {"role": "system", "content": "Add."}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train --recipe none", "recipe must be one of ['qwen2.5-math-7b'], got 'none'"),
        ("train --recipe=none", "recipe must be one of ['qwen2.5-math-7b'], got 'none'"),
        ("train --config nowhere.yaml", "nowhere.yaml"),
        ("train --config=nowhere.yaml", "nowhere.yaml"),
        ("toy --seeds 0", "toy is now python -m benchmarks.llm.toy_runs"),
        ("eval --model nowhere --data nowhere.jsonl", "there is no file nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("era-llm: ")
    assert message in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "data.jsonl has no rows, or is damaged"),
        ("{", "data.jsonl has no rows, or is damaged"),
        (
            '{"prompt": "1="}\n{"prompt": null}',
            r"prompt_column must have texts .* {'prompt': None}",
        ),
        ('{"prompt": 1}', r"prompt_column must have texts or conversations, not {'prompt': 1}"),
    ],
    ids=["empty", "damaged", "null", "number"],
)
def test_data_without_prompts_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """ValueError: it was blamed on the chat template, or was an error of datasets or of Python."""
    data = tmp_path / "data.jsonl"
    data.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_rows(DataArguments(str(data), system_prompt="Add."))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("eval --limit -1", "argument --limit: '-1' must be a whole number of at least 1"),
        ("eval --samples 0", "argument --samples: '0' must be a whole number of at least 1"),
        ("calibrate --batch-size 0", "argument --batch-size: '0' must be a whole number of at"),
        ("eval --k x", "argument --k: 'x' must be a whole number of at least 1"),
        ("calibrate --dtype float3", "argument --dtype: invalid choice: 'float3'"),
        ("train --max_steps 3", "--max_steps is now --steps; in a configuration file"),
        ("train --output-dir=x", "--output-dir is now --out"),
        ("train --use_cpu", "--use_cpu is now --device"),
        ("train --device tpu", "argument --device: invalid choice: 'tpu'"),
        ("train --stpes 3", "option --stpes is unknown; close: --steps"),
        ("train --learning_rate fast", "argument --learning_rate"),
        ("eval --model x --data y --output z", "--output is now --out"),
        ("eval --modle x", "option --modle is unknown; close: --model"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(
    command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """TRL's options too: neither their usage, of 200 lines, nor a misspelt one hides behind another."""
    with pytest.raises(SystemExit, match="2"):
        main(command.split())
    (line,) = capsys.readouterr().err.splitlines()
    name = f"era-llm {command.split()[0]}"
    assert line.startswith(f"{name}: {message}" if "argument" not in message else name)
    assert line.endswith(f"; see {name} --help")
    assert message in line


def test_help_of_train_has_the_options_that_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """Not TRL's names of those, which are refused; a percent sign in a help text ended the command."""
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    listed = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {"--steps", "--out", "--resume", "--device", "--config", "--recipe"} <= listed
    assert {"--era_entropy_low", "--era-entropy-low"} & listed
    assert not {"--max_steps", "--output_dir", "--resume_from_checkpoint", "--use_cpu"} & listed


def test_a_run_resumes_from_its_folder_or_one_of_its_checkpoints() -> None:
    """--out, --steps and --device as given; --resume RUN goes on in RUN, from the newest checkpoint."""

    def parsed(text: str) -> list[Any]:
        names = ("output_dir", "max_steps", "use_cpu", "resume_from_checkpoint")
        options = train.parser().parse_args(["--dataset_name", "d", *text.split()])
        return [getattr(options, name) for name in names]

    assert parsed("--out x --steps=3 --device=cpu") == ["x", 3, True, None]
    assert parsed("--resume x --device auto") == ["x", -1, False, "true"]
    assert parsed("--resume x/checkpoint-2")[::3] == ["x", "x/checkpoint-2"]


class _Stop(Exception):  # noqa: N818
    """Ends a command where its trainer would be built."""


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Record what the train command would build a trainer from, and stop it there."""
    record: dict[str, Any] = {}

    def stop(model: str, rewards: Any, config: Any, **rest: Any) -> None:
        record.update(model=model, rewards=rewards, config=config, **rest)
        raise _Stop

    monkeypatch.chdir(tmp_path)  # where the folder of the run is held
    monkeypatch.setattr(train, "GRPOERATrainer", stop)
    rows = Dataset.from_list([{"prompt": "", "answer": ""}])
    monkeypatch.setattr(train, "load_rows", lambda options: record.update(data=options) or rows)
    monkeypatch.setattr(data_module, "math_verify", lambda: None)
    return record


ON_CPU = ["--device", "cpu", "--bf16", "false"]


def test_the_recipe_parses_into_the_papers_settings(built: dict[str, Any]) -> None:
    with pytest.raises(_Stop):
        main(["train", "--recipe", "qwen2.5-math-7b", *ON_CPU])
    config, source = built["config"], built["data"]
    assert built["model"] == "Qwen/Qwen2.5-Math-7B"
    assert built["rewards"] == [math_reward]
    assert (source.dataset_name, source.dataset_config) == (
        "open-r1/DAPO-Math-17k-Processed",
        "all",
    )
    assert (source.prompt_column, source.answer_column, source.chat) == ("prompt", "solution", True)
    assert (config.num_generations, config.learning_rate, config.beta) == (8, 1e-6, 0.0)
    assert (config.era_entropy_low, config.era_entropy_high, config.era_k) == (0.45, 3.0, 2.0)


def test_the_recipes_launch_lines_give_the_papers_batch(built: dict[str, Any]) -> None:
    recipe = Path(train.__file__).with_name("recipes") / "qwen2.5-math-7b.yaml"
    lines = re.findall(r"accelerate launch (.+)", recipe.read_text().replace("\\\n#", ""))
    processes = []
    for line in lines:
        launch = launch_command_parser().parse_args(shlex.split(line))
        assert (launch.module, launch.training_script) == (True, main.__module__)
        with pytest.raises(_Stop):
            main([*launch.training_script_args, *ON_CPU])
        config = built["config"]
        batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
        assert batch * launch.num_processes == 256 * config.num_generations
        assert (built["peft_config"] is not None) is (launch.num_processes == 1)
        processes.append(launch.num_processes)
    assert processes == [8, 1]
