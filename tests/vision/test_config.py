from dataclasses import fields

import pytest

from era_vision.checkpoint import config_of
from era_vision.cli import parser
from era_vision.config import Config, load_recipe, recipe_names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, r"epochs=0 must be a whole number of at least 1"),
        ({"smoothing": 1.5}, r"smoothing=1\.5 must be a number in \[0, 1\]"),
        ({"lr": float("nan")}, r"lr=nan"),
        ({"policy": "autoaugment"}, r"policy='autoaugment' must be one of .*trivialaugment"),
        ({"method": "entmax"}, r"method='entmax'"),
        ({"jsd": 12.0}, r"jsd=12\.0 needs views of at least 2"),
        ({"views": 2, "mixup": 0.2}, r"views=2 excludes mixup=0\.2"),
        ({"data": "cifar10", "image_size": 16}, "image_size=16 has no effect on data='cifar10'"),
        ({"magnitude": 5}, r"magnitude=5 has no effect on policy='none'"),
        ({"learningrate": 0.1}, r"setting 'learningrate' is unknown"),
        ({"cpu": True}, r"the setting 'cpu' is now 'device'"),
    ],
)
def test_bad_settings_say_what_is_wrong(settings, message):
    with pytest.raises(ValueError, match=message):
        Config.of(settings)


def test_another_data_set_is_evaluated_at_its_own_size():
    state = {"config": {"data": "imagefolder:icons", "image_size": 32}}
    assert config_of(state, data="digits").image_size is None
    assert config_of(state).image_size == 32


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_valid(name):
    config = Config.of(load_recipe(name))
    assert config.head == "era"
    if "cifar10" in name or name == "imagenet":
        assert (config.model, config.epochs, config.target_entropy) == ("resnet50", 200, 0.6)
        assert config.smoothing == 0.1


def test_recipes_of_the_paper_are_there():
    assert {"cifar10", "cifar10-augmented", "imagenet"} <= set(recipe_names())
    with pytest.raises(ValueError, match="recipe='cifar11' is neither a file nor one of cifar10"):
        load_recipe("cifar11")


def test_recipe_from_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data: fake\nlr: 0.5\n")
    assert load_recipe(str(path)) == {"data": "fake", "lr": 0.5}


def test_command_line_has_every_setting_and_sets_only_what_is_given():
    options = vars(
        parser().parse_args(["train", "--no-progress", "--clip", "1", "--stem", "cifar"])
    )
    del options["command"]
    assert options == {"recipe": None, "progress": False, "clip": 1.0, "stem": "cifar"}
    every = ["train"]
    for option in fields(Config):
        flag = option.name.replace("_", "-")
        bare = isinstance(option.default, bool)
        value = {"pretrained": "DEFAULT", "image_size": "32"}.get(option.name, option.default)
        every += [f"--{flag}"] if bare else [f"--{flag}", str(value)]
    parsed = vars(parser().parse_args(every))
    assert {option.name for option in fields(Config)} <= parsed.keys()
    assert parsed["image_size"] == 32


@pytest.mark.parametrize("command", [["train"], ["eval", "last.pt"]])
def test_older_options_are_refused_with_the_new_ones(command, capsys):
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args([*command, "--cpu"])
    assert "--cpu is now --device" in capsys.readouterr().err


def test_older_checkpoints_have_cpu_in_the_place_of_device():
    assert config_of({"config": {"data": "digits", "cpu": True}}).device == "auto"
