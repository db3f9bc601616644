"""README's self-contained example runs as printed, and its links lead to files."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_example_of_the_heads_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (example,) = (block for block in blocks if "CategoricalHead(num_classes" in block)
    names: dict[str, object] = {}
    exec(example, names)  # README's code, the very thing under test
    assert {"loc", "scale", "policy", "logits"} <= names.keys()


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
