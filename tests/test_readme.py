"""README's self-contained examples run as printed."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.filterwarnings("ignore:The env passed to Collector")  # torchrl 0.14's notice of 0.15
@pytest.mark.parametrize(
    ("marker", "defined"),
    [
        ("CategoricalHead(num_classes", {"loc", "scale", "policy", "logits"}),
        ("Collector(", {"loss"}),
    ],
    ids=["heads", "torchrl"],
)
def test_an_example_runs(marker: str, defined: set[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (example,) = (block for block in blocks if marker in block)
    names: dict[str, object] = {}
    exec(example, names)  # README's code, the very thing under test
    assert defined <= names.keys()


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
