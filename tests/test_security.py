"""No file is loaded by executing it: our sources, parsed, call nothing that would, but for a few."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("era_rl", "era_vision", "era_llm", "benchmarks", "docs", "zoo_configs")

# path, call: why it is safe
ALLOWED = {
    ("era_rl/runs/yaml_files.py", "yaml.load"): "with a subclass of yaml.SafeLoader, checked below"
}
# modules whose every function runs what it reads
PICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE_YAML = {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
# of pickle, for its name alone: the errors of torch's restricted loader are of this class
HARMLESS = {"pickle.UnpicklingError"}


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Return what the names of a module stand for, in dotted form."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """Return the dotted name that an expression stands for, "" if it is none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (left := dotted(node.value, names)):
        return f"{left}.{node.attr}"
    return ""


def keyword(call: ast.Call, name: str) -> object:
    """Return the constant that a call has for a keyword, None without it."""
    values = [k.value for k in call.keywords if k.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def unsafe_uses(source: str) -> list[tuple[int, str]]:
    """Return line and name of what would execute what it reads."""
    tree = ast.parse(source)
    names, found = imported_names(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = dotted(node, names)
            if name.split(".")[0] in PICKLING and "." in name and name not in HARMLESS:
                found.append((node.lineno, name))
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func, names)
        package, _, function = name.rpartition(".")
        unsafe = (
            (package == "yaml" and function in UNSAFE_YAML)
            or (name == "torch.load" and keyword(node, "weights_only") is not True)
            or (name == "numpy.load" and keyword(node, "allow_pickle") not in (None, False))
            or (name in BUILTINS and isinstance(node.func, ast.Name))
            or name in ("pandas.read_pickle", "runpy.run_path", "torch.hub.load", "os.system")
            or keyword(node, "shell") is True
        )
        if unsafe:
            found.append((node.lineno, name))
    return found


SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_no_source_executes_what_it_reads() -> None:
    assert len(SOURCES) > 100
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in SOURCES
        for _, name in unsafe_uses(path.read_text())
    }
    assert found == set(ALLOWED)


def test_the_zoos_loader_of_yaml_makes_plain_data_alone() -> None:
    import yaml

    from era_rl.runs.settings import SettingsError
    from era_rl.runs.yaml_files import _Loader, parse

    assert issubclass(_Loader, yaml.SafeLoader)
    for text in ("!!python/object/apply:os.getcwd []", "!!python/name:os.getcwd", "!mine {}"):
        with pytest.raises(SettingsError, match="not plain YAML"):
            parse(text)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('a')",
        "import torch\ntorch.load('a', weights_only=False)",
        "import torch as t\nt.load('a')",
        "from torch import load\nload('a')",
        "import yaml\nyaml.load('a', Loader=yaml.UnsafeLoader)",
        "from yaml import unsafe_load\nunsafe_load('a')",
        "import pickle\npickle.loads(b'')",
        "import pickle as p\np.Unpickler(b'').load()",
        "from pickle import load\nload('a')",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "eval('1')",
        "exec('1')",
        "import subprocess\nsubprocess.run('a', shell=True)",
    ],
    ids=range(13),
)
def test_the_scan_finds(source: str) -> None:
    assert unsafe_uses(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('a', weights_only=True)",
        "import yaml\nyaml.safe_load('a')",
        "import numpy as np\nnp.load('a')\nnp.load('a', allow_pickle=False)",
        "model.eval()\nmodel.load('a')",
        "import json\njson.load('a')",
        "import pickle\ntry:\n    pass\nexcept pickle.UnpicklingError:\n    pass",
    ],
    ids=range(6),
)
def test_the_scan_passes(source: str) -> None:
    assert not unsafe_uses(source)
