"""The documentation keeps to the code: its scripts run, its names and messages exist."""

import ast
import base64
import dataclasses
import json
import logging
import os
import re
import runpy
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

import cloudpickle
import griffe
import pytest
from mkdocs.config import load_config
from mkdocs.structure.files import File, Files

from era_rl.runs.settings import fields_of

DOCS = Path(__file__).parents[1] / "docs"
ROOT = DOCS.parent
PACKAGES = ("era_rl", "era_vision", "era_llm", "benchmarks")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of TorchRL and transformers, of themselves
@pytest.mark.parametrize("script", sorted(p.name for p in DOCS.glob("tutorials/*.py")))
def test_a_tutorial_runs(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # what one of them sets, undone at the end
    runpy.run_path(str(DOCS / "tutorials" / script))


def test_the_zoo_tutorial_runs(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", str(DOCS / "tutorials" / "zoo.sh")],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        check=True,
    )


def test_every_tutorial_is_shown_whole() -> None:
    """Each section of a script is taken into a page, by a line that the site's builder reads."""
    pages = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    for script in DOCS.glob("tutorials/*.[ps][yh]"):
        sections = re.findall(r"--8<-- \[start:(\w+)\]", script.read_text())
        assert sections
        assert [
            s for s in sections if f'\n--8<-- "tutorials/{script.name}:{s}"\n' not in pages
        ] == []


def test_every_tutorial_links_the_scripts_that_it_shows() -> None:
    for page in DOCS.glob("tutorials/*.md"):
        shown = set(re.findall(r'^--8<-- "tutorials/([\w.]+):', page.read_text(), flags=re.M))
        assert {script for script in shown if f"[{script}](" not in page.read_text()} == set()


@pytest.mark.parametrize(
    ("page", "package"),
    [
        ("core", "era_rl.core"),
        ("networks", "era_rl.networks"),
        ("sb3", "era_rl.sb3"),
        ("torchrl", "era_rl.torchrl"),
        ("rsl_rl", "era_rl.rsl_rl"),
        ("envs", "era_rl.envs"),
        ("vision", "era_vision"),
        ("llm", "era_llm"),
    ],
)
def test_every_public_name_is_in_the_reference(page: str, package: str) -> None:
    public = {f"{package}.{name}" for name in import_module(package).__all__}
    assert public - _listed(page) == set()


def test_every_name_in_the_reference_exists() -> None:
    pages = [path.stem for path in DOCS.glob("reference/*.md")]
    listed = set().union(*map(_listed, pages))
    assert {path for path in listed if resolve_name(path) is None} == set()
    shown = {path.rpartition(".")[2] for path in listed}
    assert set(import_module("era_rl").__all__) - shown == set()


def _listed(page: str) -> set[str]:
    text = (DOCS / "reference" / f"{page}.md").read_text()
    return set(re.findall(r"^::: ([\w.]+)$", text, flags=re.MULTILINE))


def _messages() -> list[str]:
    """Return every string of the source, with … for what it fills in."""
    trees = (
        ast.parse(path.read_text()) for name in PACKAGES for path in ROOT.glob(f"{name}/**/*.py")
    )
    return [_template(node) for tree in trees for node in ast.walk(tree)]


def _template(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(value) for value in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return "…"


def _quoted() -> dict[str, list[str]]:
    """Return the messages that the page on troubleshooting quotes, by heading."""
    parts = re.split(r"^## (.*)$", (DOCS / "troubleshooting.md").read_text(), flags=re.MULTILINE)
    tables = zip(parts[1::2], parts[2::2], strict=True)
    found = {h: re.findall(r"^\| `(.*?)` \|", t, flags=re.MULTILINE) for h, t in tables}
    return {heading: messages for heading, messages in found.items() if messages}


@pytest.fixture(scope="module")
def messages() -> list[str]:
    return _messages()


@pytest.mark.parametrize("heading", _quoted())
def test_a_quoted_message_is_in_the_source(heading: str, messages: list[str]) -> None:
    quoted = [message.removesuffix("…") for message in _quoted()[heading]]
    assert [q for q in quoted if not any(q in message for message in messages)] == []


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


@pytest.mark.filterwarnings("ignore:Could not deserialize")
def test_weights_alone_run_no_code_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from era_rl.sb3 import SACERA

    monkeypatch.chdir(tmp_path)
    model = SACERA("MlpPolicy", "Pendulum-v1", buffer_size=10)
    model.save("honest")
    with zipfile.ZipFile("honest.zip") as honest, zipfile.ZipFile("rigged.zip", "w") as rigged:
        for name in honest.namelist():
            content = honest.read(name)
            if name == "data":
                payload = base64.b64encode(cloudpickle.dumps(_Payload())).decode()
                entry = {":type:": "payload", ":serialized:": payload}
                content = json.dumps({**json.loads(content), "payload": entry}).encode()
            rigged.writestr(name, content)
    model.set_parameters("rigged.zip")
    assert not Path("executed").exists()
    SACERA.load("rigged.zip")
    assert Path("executed").exists()


def test_figures_are_those_that_the_pages_show(tmp_path: Path) -> None:
    figures = runpy.run_path(str(DOCS / "figures.py"))
    figures["draw"](tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in DOCS.glob("figures/*.svg")}
    text = (DOCS / "mathematics.md").read_text() + (ROOT / "README.md").read_text()
    assert drawn == set(re.findall(r"!\[[^\]]+\]\((?:docs/)?figures/(\w+\.svg)\)", text))


@pytest.fixture
def hooks() -> Any:
    module = ModuleType("hooks")
    vars(module).update(runpy.run_path(str(DOCS / "hooks.py")))
    return module


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("[the readme](../README.md#install)", "the readme (`README.md`)"),
        ("[README.md](../README.md)", "`README.md`"),
        ("[up](../docs/index.md)", "[up](../docs/index.md)"),
        ("[page](index.md)", "[page](index.md)"),
        ("![curve](../docs/figures/floors.svg)", "![curve](../docs/figures/floors.svg)"),
        (
            "![curve](../benchmarks/results/pilot/curves.png)",
            "![curve](benchmarks/results/pilot/curves.png)",
        ),
    ],
    ids=["outside", "path", "inside", "page", "figure inside", "figure outside"],
)
def test_links_that_leave_the_documentation_name_a_path(hooks: Any, link: str, shown: str) -> None:
    assert hooks.on_page_markdown(link, _page("paper.md")) == shown


def test_a_link_to_a_missing_file_stops_the_build(
    hooks: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):  # which --strict makes an error
        hooks.on_page_markdown("[report](../nowhere.md)", _page("paper.md"))
    assert "nowhere.md, which does not exist" in caplog.text


def test_figures_outside_the_documentation_are_taken_along(
    hooks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = "benchmarks/results/pilot/curves.png"
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"))
    pages = {
        "a.md": f"![curve](../{figure}) ![curve](../{figure})",
        "b/c.md": f"![curve](../../{figure})\n[link](../../README.md) ![floors](../figures/floors.svg)",
    }
    for uri, text in pages.items():
        (tmp_path / uri).parent.mkdir(exist_ok=True)
        (tmp_path / uri).write_text(text)
    files = Files([File(uri, str(tmp_path), config.site_dir, False) for uri in pages])
    assert hooks.on_files(files, config=config) is files
    assert {file.src_uri for file in files} == {*pages, figure}
    taken = files.get_file_from_path(figure)
    assert taken is not None
    taken.copy_file()
    assert (tmp_path / "site" / figure).read_bytes() == (ROOT / figure).read_bytes()
    shown = hooks.on_page_markdown(pages["b/c.md"], _page("b/c.md"))
    assert f"![curve](../{figure})" in shown


def _settings(path: str) -> dict[str, str]:
    return {field.name: field.setting.about for field in fields_of(resolve_name(path))}


def _options(path: str) -> dict[str, str]:
    return {field.name: field.metadata["help"] for field in dataclasses.fields(resolve_name(path))}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("era_rl.torchrl.config.Config", _settings),
        ("era_vision.config.Config", _settings),
        ("era_llm.options.ERAOptions", _options),
    ],
)
def test_reference_lists_what_fields_say(hooks: Any, path: str, fields: Any) -> None:
    shown = _shown(hooks, path)
    assert shown.docstring is not None
    listed = re.findall(r"^    (\w+): (.+)$", shown.docstring.value, re.MULTILINE)
    assert fields(path).items() <= dict(listed).items()


def test_reference_lists_the_defaults_of_options(hooks: Any) -> None:
    """Not the calls that make them."""
    attributes = _shown(hooks, "era_llm.data.DataArguments").attributes
    fields = dataclasses.fields(resolve_name("era_llm.data.DataArguments"))
    for field in fields:
        shown, default = attributes[field.name].value, field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING:
            assert shown is None
        else:
            assert ast.literal_eval(str(shown)) == default


def _shown(hooks: Any, path: str) -> Any:
    extensions = griffe.load_extensions(hooks.Docstrings())
    return griffe.load(path, search_paths=[ROOT], extensions=extensions)


def _page(uri: str) -> Any:
    page: Any = ModuleType("page")
    page.file = ModuleType("file")
    page.file.src_uri = uri
    return page
