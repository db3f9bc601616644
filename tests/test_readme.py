"""README's example runs as printed, pages' links lead to files, their verdicts are measured."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
KINDS = (".md", ".yaml")


def test_the_example_of_the_heads_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (example,) = (block for block in blocks if "CategoricalHead(num_classes" in block)
    names: dict[str, object] = {}
    exec(example, names)  # README's code, the very thing under test
    assert {"loc", "scale", "policy", "logits"} <= names.keys()


def test_every_linked_file_exists() -> None:
    """Of all pages but those of docs/, whose links the build of the documentation checks."""
    folders = ("benchmarks", "era_rl", "era_vision", "era_llm", "findings")
    pages = [
        *ROOT.glob("*.md"),
        *(page for each in folders for page in (ROOT / each).rglob("*.md")),
    ]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    ]
    assert {ROOT / "README.md", RESULTS / "README.md"} <= {page for page, _ in links}
    assert [link for link in links if not (link[0].parent / link[1]).exists()] == []


def test_every_module_that_is_run_can_be() -> None:
    """After "-m" in pages and recipes: a package with a __main__, or a module that is a script."""
    folders = ("benchmarks", "docs", "era_rl", "era_vision", "era_llm")
    pages = [
        page for each in folders for page in (ROOT / each).rglob("*.*") if page.suffix in KINDS
    ]
    named: set[str] = set()
    for page in [*ROOT.glob("*.md"), *pages]:
        named |= set(re.findall(r" -m ((?:era_|benchmarks)\w*(?:\.\w+)*)", page.read_text()))
    assert {"era_llm.cli", "era_vision.cli", "era_rl.torchrl.train", "benchmarks"} <= named
    paths = [ROOT.joinpath(*name.split(".")) for name in named]
    assert [path for path in paths if path.is_dir() and not (path / "__main__.py").exists()] == []
    scripts = [path.with_suffix(".py") for path in paths if not path.is_dir()]
    assert [path for path in scripts if '__name__ == "__main__"' not in path.read_text()] == []


def test_pages_and_reports_say_what_all_comparisons_come_to() -> None:
    """The number of comparisons and each verdict are those of benchmarks/results/README.md."""
    results = (RESULTS / "README.md").read_text()
    (number,) = re.findall(r"corrected for the (\d+) comparisons", results)
    pages = [
        README,
        ROOT / "docs" / "results.md",
        ROOT / "benchmarks" / "README.md",
    ]
    said = [n for page in pages for n in re.findall(r"(\d+)\s+comparisons", page.read_text())]
    reports = {path.parent.name: path.read_text() for path in RESULTS.glob("*/report.md")}
    said += [n for text in reports.values() for n in re.findall(r"all (\d+) comparisons", text)]
    assert said
    assert {*said} == {number}
    verdicts = {}
    for line in re.findall(r"^\| \[(.+) \|$", results, flags=re.M):
        suite, arm, baseline, task, *_, verdict = line.split(" | ")
        verdicts[suite.partition("]")[0], f"{arm} against {baseline}, {task}"] = verdict
    told = {
        (suite, line.split(" | ")[0]): line.split(" | ")[-1]
        for suite, text in reports.items()
        for line in re.findall(
            r"^\| (.+ against .+, .+) \|$", text.partition("\n## What")[0], flags=re.M
        )
    }
    assert told == verdicts
