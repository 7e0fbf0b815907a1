"""The lines of the house that no other test would notice: who imports whom, and where dependencies are listed."""

import ast
import configparser
import re
import runpy
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from msinet.training.options import RunOptions

ROOT = Path(__file__).parents[1]
#: From low to high: a wing may import itself and those before it.
WINGS = ("msinet", "bench", "ablations", "reports")
#: Modules whose distribution has another name.
DISTRIBUTIONS = {"PIL": "pillow", "pytest_benchmark": "pytest-benchmark"}
#: Measured by pytest, never imported: what only these files import is installed with the group `bench`.
SUITES = Path("bench", "suites")


def sources(root: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Every Python file of the wings, parsed."""
    for wing in WINGS:
        for path in sorted((root / wing).rglob("*.py")):
            yield path.relative_to(root), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    """Modules imported anywhere in a file, functions and `import_module("...")` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
        elif isinstance(node, ast.Call) and node.args and isinstance(name := node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield str(name.value)


def third_party(root: Path, *, suites: bool = False) -> set[str]:
    """Distributions that the wings import, or that the suites of benchmarks do."""
    modules = {
        name.split(".")[0]
        for path, tree in sources(root)
        if path.is_relative_to(SUITES) is suites
        for name in imports(tree)
    }
    return {DISTRIBUTIONS.get(m, m).lower() for m in modules - set(sys.stdlib_module_names) - set(WINGS)}


# Each checker gives one line per offence.


def upward_imports(root: Path) -> list[str]:
    return [
        f"{path} imports {name}"
        for path, tree in sources(root)
        for name in imports(tree)
        if (top := name.split(".")[0]) in WINGS and WINGS.index(top) > WINGS.index(path.parts[0])
    ]


def stray_fvcore(root: Path) -> list[str]:
    users = {path.as_posix() for path, tree in sources(root) if any(n.split(".")[0] == "fvcore" for n in imports(tree))}
    return sorted(users - {"bench/cost.py"})


def unsafe_loads(root: Path) -> list[str]:
    """Calls of torch.load, by whatever name torch goes, that do not say weights_only=True themselves."""
    found = []
    for path, tree in sources(root):
        nodes = list(ast.walk(tree))
        modules, functions = {"torch"}, set()
        for node in nodes:
            if isinstance(node, ast.Import):
                modules |= {alias.asname for alias in node.names if alias.name == "torch" and alias.asname}
            elif isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.serialization"):
                functions |= {alias.asname or "load" for alias in node.names if alias.name == "load"}
        for node in nodes:
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                loads = name in functions or (name.endswith(".load") and name.split(".")[0] in modules)
                safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
                found += [f"{path}:{node.lineno}"] if loads and not safe else []
    return found


def second_lists(root: Path) -> list[str]:
    """Places other than pyproject.toml that name what to install."""
    names = ("requirements*.txt", "requirements*.in", "setup.py", "setup.cfg", "environment*.y*ml", "Pipfile")
    found = [path.name for name in names for path in root.glob(name)]
    if (root / "tox.ini").exists():
        tox = configparser.ConfigParser()
        tox.read(root / "tox.ini")
        found += [f"tox.ini [{section}] deps" for section in tox.sections() if "deps" in tox[section]]
    if (root / "noxfile.py").exists():
        groups = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]
        allowed = {"-e", ".", "--group", *groups}
        for node in ast.walk(ast.parse((root / "noxfile.py").read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".install"):
                words = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                found += [f"noxfile.py installs {word}" for word in words if word not in allowed]
    return found


def declared(root: Path, group: str = "") -> set[str]:
    """Distributions that pyproject.toml asks for at run time, in one of its dependency groups, or in its extras."""
    found = tomllib.loads((root / "pyproject.toml").read_text())
    if group == "optional":
        lines = [line for extra in found["project"]["optional-dependencies"].values() for line in extra]
    else:
        lines = found["dependency-groups"][group] if group else found["project"]["dependencies"]
    return {re.split(r"[^\w-]", line)[0].lower() for line in lines}


# The house


def test_imports_run_one_way() -> None:
    assert not upward_imports(ROOT)
    assert len(list(sources(ROOT))) > 20  # the check saw the house


def test_fvcore_has_one_door() -> None:
    assert not stray_fvcore(ROOT)
    assert "fvcore" in third_party(ROOT)


def test_no_weights_file_can_run_code() -> None:
    assert not unsafe_loads(ROOT)


def test_pyproject_is_the_only_list_of_dependencies() -> None:
    assert not second_lists(ROOT)


def test_what_is_imported_is_what_is_declared() -> None:
    assert third_party(ROOT) - declared(ROOT, "optional") == declared(ROOT)
    assert not declared(ROOT) & declared(ROOT, "optional")
    assert third_party(ROOT, suites=True) - declared(ROOT) == declared(ROOT, "bench")


def test_the_suites_are_imported_by_nobody() -> None:
    # So nothing but measuring needs what they import.
    assert any(path.is_relative_to(SUITES) for path, _ in sources(ROOT))
    assert not [f"{path} imports {n}" for path, t in sources(ROOT) for n in imports(t) if n.startswith("bench.suites")]


# The checkers themselves, on planted offences


@pytest.mark.parametrize(
    ("path", "code", "checker", "offence"),
    [
        ("msinet/a.py", "import bench.cost", upward_imports, "msinet/a.py imports bench.cost"),
        ("msinet/data/a.py", "from reports import tables", upward_imports, "msinet/data/a.py imports reports"),
        ("bench/a.py", "def f():\n    from ablations import store", upward_imports, "bench/a.py imports ablations"),
        ("ablations/a.py", "import os, reports.tables as t", upward_imports, "ablations/a.py imports reports.tables"),
        ("bench/a.py", "import_module('reports')", upward_imports, "bench/a.py imports reports"),
        ("msinet/a.py", "import importlib\nimportlib.import_module('bench')", upward_imports, "imports bench"),
        ("bench/other.py", "from fvcore.nn import FlopCountAnalysis", stray_fvcore, "bench/other.py"),
        ("reports/a.py", "def f():\n    import fvcore", stray_fvcore, "reports/a.py"),
        ("msinet/a.py", "import torch\ntorch.load('x')", unsafe_loads, "msinet/a.py:2"),
        ("msinet/a.py", "import torch\ntorch.load('x', weights_only=False)", unsafe_loads, "msinet/a.py:2"),
        ("msinet/a.py", "import torch as t\nt.serialization.load('x')", unsafe_loads, "msinet/a.py:2"),
        ("bench/a.py", "from torch import load as get\n\nget('x', map_location='cpu')", unsafe_loads, "bench/a.py:3"),
        ("requirements-dev.txt", "torch", second_lists, "requirements-dev.txt"),
        ("setup.cfg", "", second_lists, "setup.cfg"),
        ("tox.ini", "[testenv:a]\ndeps = torch", second_lists, "tox.ini [testenv:a] deps"),
        ("noxfile.py", "def f(s): s.install('-e', '.', 'pytest')", second_lists, "noxfile.py installs pytest"),
    ],
)
def test_a_planted_offence_is_found(tmp_path: Path, path: str, code: str, checker, offence: str) -> None:
    (tmp_path / "pyproject.toml").write_text("[dependency-groups]\ntest = []\n")
    assert not checker(tmp_path)
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(code)
    assert len(found := checker(tmp_path)) == 1
    assert offence in found[0]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("reports/a.py", "import ablations, bench, msinet, reports.tables"),
        ("msinet/a.py", "from . import reports\nimport benchmarks, ablations_of_others\nname = 'import reports'"),
        ("bench/cost.py", "import fvcore"),
        ("msinet/a.py", "import torch, json\ntorch.load('x', weights_only=True)\njson.load(f)"),
        ("noxfile.py", "def f(s): s.install('-e', '.', '--group', 'test')"),
        ("tox.ini", "[tox]\nrequires = tox>=4\n[testenv]\ndependency_groups = test"),
    ],
)
def test_what_is_allowed_is_not_found(tmp_path: Path, path: str, code: str) -> None:
    (tmp_path / "pyproject.toml").write_text("[dependency-groups]\ntest = []\n")
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(code)
    for checker in (upward_imports, stray_fvcore, unsafe_loads, second_lists):
        assert not checker(tmp_path)


def test_undeclared_and_unused_dependencies_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["torch>=2.11", "pillow", "tqdm[x]>=4"]\n')
    (tmp_path / "msinet").mkdir()
    (tmp_path / "msinet" / "a.py").write_text("import os, PIL.Image, torch\nimport scipy.stats\nfrom msinet import b")
    (tmp_path / "bench" / "suites").mkdir(parents=True)
    (tmp_path / "bench" / "suites" / "test_a.py").write_text("import pytest_benchmark, torch, msinet.data")
    assert third_party(tmp_path) - declared(tmp_path) == {"scipy"}
    assert declared(tmp_path) - third_party(tmp_path) == {"tqdm"}
    assert third_party(tmp_path, suites=True) == {"pytest-benchmark", "torch"}


# The workflows


def test_commands_that_only_read_get_no_words_on_how(monkeypatch: pytest.MonkeyPatch) -> None:
    # nox itself is no part of what is tested with: the file needs a decorator of it and a place for options.
    fake = SimpleNamespace(
        options=SimpleNamespace(), Session=object, session=lambda *work, **_: work[0] if work else lambda found: found
    )
    monkeypatch.setitem(sys.modules, "nox", fake)
    words = runpy.run_path(str(ROOT / "noxfile.py"))
    assert {option.removeprefix("--").removeprefix("no-").replace("-", "_") for option in words["HOW"]} == {
        field.name for field in fields(RunOptions)
    }
    given = [
        "--profile",
        "smoke",
        "--device",
        "cpu",
        "--workers=2",
        "--no-progress",
        "--recipe",
        "lr=1",
        "--cache",
        "x",
    ]
    assert words["request"](given) == ["--profile", "smoke", "--recipe", "lr=1"]
