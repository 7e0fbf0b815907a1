"""Rules of the code base that no other test checks: imports, dependencies, packaging, sizes, docstrings."""

import ast
import configparser
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from ablations.engine.options import ClusterOptions
from ablations.studies import STUDIES
from msinet.training.options import RunOptions

ROOT = Path(__file__).parents[1]
#: From low to high: a package may import itself and those before it.
PACKAGES = ("msinet", "bench", "ablations", "reports")
#: What parts of msinet import, beside themselves and modules directly in msinet that import none of the parts.
PARTS = {
    "models": ("data",),
    "data": (),
    "synthetic": ("data",),
    "retrieval": (),
    "training": ("models", "data", "retrieval"),
    "search": ("models", "data", "retrieval", "training"),
    "unsupervised": ("models", "data", "retrieval", "training", "search"),
}
#: Modules whose distribution has another name.
DISTRIBUTIONS = {"PIL": "pillow", "pytest_benchmark": "pytest-benchmark", "sklearn": "scikit-learn"}
#: Run by pytest, never imported. The group `bench` installs what only these files import.
SUITES = Path("bench", "suites")


def sources(root: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Every Python file of the packages, parsed."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
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
    """Distributions that the packages import, or that the suites of benchmarks import."""
    modules = {
        name.split(".")[0]
        for path, tree in sources(root)
        if path.is_relative_to(SUITES) is suites
        for name in imports(tree)
    }
    return {DISTRIBUTIONS.get(m, m).lower() for m in modules - set(sys.stdlib_module_names) - set(PACKAGES)}


# Each checker gives one line per offence.


def upward_imports(root: Path) -> list[str]:
    return [
        f"{path} imports {name}"
        for path, tree in sources(root)
        for name in imports(tree)
        if (top := name.split(".")[0]) in PACKAGES and PACKAGES.index(top) > PACKAGES.index(path.parts[0])
    ]


def imports_between_parts(root: Path) -> list[str]:
    """Imports from one part of msinet to another that `PARTS` does not list."""
    found = []
    for path, tree in sources(root):
        if len(path.parts) > 2 and (part := path.parts[1]) in PARTS and path.parts[0] == "msinet":
            allowed = {part, *PARTS[part]}
            for name in imports(tree):
                words = name.split(".")
                if words[0] == "msinet" and len(words) > 1 and words[1] in PARTS and words[1] not in allowed:
                    found.append(f"{path} imports {name}")
    return found


#: Functions with more parameters or nested functions with more lines are hard to read.
MOST_PARAMETERS, MOST_NESTED_LINES = 8, 10
Function = ast.FunctionDef | ast.AsyncFunctionDef


def long_parameter_lists(root: Path) -> list[str]:
    """Public functions and methods with too many parameters, `self` and `cls` not counted."""
    found = []
    for path, tree in sources(root):
        for node in ast.walk(tree):
            if isinstance(node, Function) and not node.name.startswith("_"):
                given = node.args
                names = [
                    arg.arg
                    for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
                    if arg
                ]
                count = len(names) - (names[:1] in (["self"], ["cls"]))
                found += [f"{path}:{node.lineno} {node.name} has {count} parameters"] if count > MOST_PARAMETERS else []
    return found


def long_nested_functions(root: Path) -> list[str]:
    """Functions within functions that are too long."""
    found = {}
    for path, tree in sources(root):
        for outer in ast.walk(tree):
            for inner in ast.walk(outer) if isinstance(outer, Function) else ():
                lines = (inner.end_lineno or 0) - inner.lineno + 1 if isinstance(inner, Function) else 0
                if inner is not outer and lines > MOST_NESTED_LINES:
                    found[f"{path}:{inner.lineno} {inner.name} has {lines} lines"] = None
    return list(found)


FRAGMENT = re.compile(r"(Of|What|Whether|Once|Do|As)\b")


def fragments(root: Path) -> list[str]:
    """Docstrings that begin as a fragment of a sentence."""
    found = []
    for path, tree in sources(root):
        for node in ast.walk(tree):
            if isinstance(node, Function | ast.ClassDef | ast.Module):
                text = ast.get_docstring(node) or ""
                if FRAGMENT.match(text):
                    found.append(f"{path}: {text.splitlines()[0]}")
    return found


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


CHECKERS = (
    upward_imports,
    imports_between_parts,
    long_parameter_lists,
    long_nested_functions,
    fragments,
    stray_fvcore,
    unsafe_loads,
    second_lists,
)

# The code base


def test_imports_run_one_way() -> None:
    assert not upward_imports(ROOT)
    assert not imports_between_parts(ROOT)
    assert len(list(sources(ROOT))) > 20
    assert {path.parts[1] for path, _ in sources(ROOT) if len(path.parts) > 2 and path.parts[0] == "msinet"} >= set(
        PARTS
    )


def test_functions_have_few_parameters() -> None:
    assert not long_parameter_lists(ROOT)


def test_nested_functions_are_short() -> None:
    assert not long_nested_functions(ROOT)


def test_docstrings_are_sentences_or_noun_phrases() -> None:
    assert not fragments(ROOT)


def test_nothing_refers_to_a_document_that_readers_do_not_have() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    word = re.compile(rb"\bSP" + rb"EC\b")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert not [path for path in paths if path.is_file() and word.search(path.read_bytes())]


def test_a_wheel_has_one_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["msinet"]
    assert project["project"]["scripts"] == {"msinet": "msinet.__main__:main"}
    # Its parent is what an editable install puts on the path, with the other packages.
    assert all((ROOT / package / "__init__.py").exists() for package in PACKAGES)


def test_the_same_versions_of_python_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if line.count("::") == 2]
    assert project["requires-python"] == f">={named[0]}"
    assert (
        "{" + ",".join(version.removeprefix("3.") for version in named) + "}-newest" in (ROOT / "tox.ini").read_text()
    )


def test_tox_installs_extras_that_exist() -> None:
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(tox["testenv"]["extras"].split()) == set(extras)


def test_one_module_imports_fvcore() -> None:
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
    # So only measurements need what they import.
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
        (
            "msinet/data/a.py",
            "import msinet.training.run",
            imports_between_parts,
            "msinet/data/a.py imports msinet.training",
        ),
        ("msinet/synthetic/a.py", "def f():\n    from msinet.models import x", imports_between_parts, "msinet.models"),
        ("msinet/a.py", "def f(a, b, c, d, /, e, f, *g, h, **i): ...", long_parameter_lists, "f has 9 parameters"),
        (
            "bench/a.py",
            "class A:\n def f(self, a, b, c, d, e, f, g, h, i): ...",
            long_parameter_lists,
            "f has 9 parameters",
        ),
        ("bench/a.py", "def f():\n def g():\n" + "  x()\n" * 10, long_nested_functions, "bench/a.py:2 g has 11 lines"),
        ("bench/a.py", "class A:\n def f(self):\n  def g():\n" + "   x()\n" * 10, long_nested_functions, "11 lines"),
        ("reports/a.py", 'def f():\n    """Whether it is."""', fragments, "reports/a.py: Whether it is."),
        ("reports/a.py", '"""What it is."""', fragments, "reports/a.py: What it is."),
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
        (
            "msinet/search/a.py",
            "import msinet.training.run, msinet.errors, msinet.search.b\nfrom msinet import distributed",
        ),
        ("msinet/a.py", "def _f(a, b, c, d, e, f, g, h, i): ..."),
        ("msinet/a.py", "class A:\n    def f(self, a, b, c, d, e, f, g, *, h): ..."),
        ("bench/a.py", "def f():\n def g():\n" + "  x()\n" * 9),
        ("bench/a.py", "class A:\n def f():\n" + "  x()\n" * 20),
        ("bench/a.py", '"""Ask it. Do it."""\nclass A:\n    x: int = 3\n    """Of x."""'),
        ("msinet/a.py", "import torch, json\ntorch.load('x', weights_only=True)\njson.load(f)"),
        ("noxfile.py", "def f(s): s.install('-e', '.', '--group', 'test')"),
        ("tox.ini", "[tox]\nrequires = tox>=4\n[testenv]\ndependency_groups = test"),
    ],
)
def test_what_is_allowed_is_not_found(tmp_path: Path, path: str, code: str) -> None:
    (tmp_path / "pyproject.toml").write_text("[dependency-groups]\ntest = []\n")
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(code)
    for checker in CHECKERS:
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


class Session:
    """A stand-in for nox's, which notes what would run."""

    def __init__(self, *words: str) -> None:
        self.posargs, self.ran, self.env = list(words), [], {}

    def install(self, *words: str) -> None: ...

    def run(self, *words: str, **_: Any) -> None:
        self.ran.append(" ".join(words))


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Any], None]]:
    """The sessions of noxfile.py. nox is not installed for tests, so it is replaced."""
    found: dict[str, Callable[[Any], None]] = {}

    def session(work: Any = None, *, name: str = "", **_: Any) -> Any:
        if work is None:
            return lambda work: session(work, name=name)
        found[name or work.__name__] = work
        return work

    fake = SimpleNamespace(options=SimpleNamespace(), Session=object, session=session)
    monkeypatch.setitem(sys.modules, "nox", fake)
    runpy.run_path(str(ROOT / "noxfile.py"))
    return found


def test_every_study_has_a_session(sessions: dict[str, Callable[[Any], None]]) -> None:
    for name, study in STUDIES.items():
        session = sessions[name if name.startswith("sweep_") else f"reproduce_{name}"]
        assert len(session.__doc__ or "") > 20
        session(run := Session("--profile", "smoke"))
        words = f"sweep {name.removeprefix('sweep_')}" if name.startswith("sweep_") else f"run {study.name}"
        assert run.ran[0] == f"python -m ablations {words} --profile smoke"
        assert len(run.ran) == (2 if name in ("figure1", "figure4", "figure6") else 1)
    sessions["reproduce_figure5"](run := Session())
    assert run.ran == [f"python -m ablations run figure5{letter}" for letter in "abcde"]


def test_reproduce_all_runs_every_study_and_gives_run_options_to_runs_alone(sessions) -> None:
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
    sessions["reproduce_all"](run := Session(*given))
    begun = [
        line.split()[4] for line in run.ran if line.startswith(("python -m ablations run", "python -m ablations sweep"))
    ]
    assert sorted(begun) == sorted(name.removeprefix("sweep_") for name in STUDIES)
    assert begun[0] == "table2"
    drawn, latency = (next(line for line in run.ran if words in line) for words in ("clusters table4", "bench latency"))
    assert drawn.endswith("table4 --profile smoke --recipe lr=1")
    assert "--profile smoke" in latency
    sessions["reproduce_all"](run := Session("--profile", "mini"))
    assert not [line for line in run.ran if "sweep" in line or "discrepancies" in line or "--profile smoke" in line]


def test_words_without_run_options(sessions: dict[str, Callable[[Any], None]]) -> None:
    space = sessions["reproduce_all"].__globals__
    expected = {}
    for options in (RunOptions, ClusterOptions):
        kinds = get_type_hints(options)
        expected |= {f"--{f.name.replace('_', '-')}": int(kinds[f.name] is not bool) for f in fields(options)}
    expected |= {name.replace("--", "--no-", 1): 0 for name, words in expected.items() if not words}
    expected |= {"--jobs": 1, "--minutes": 1, "--step-times": 1, "--table": 0, "--no-table": 0}
    assert space["run_options"]() == expected


@pytest.mark.parametrize("name", ["reproduce_figure1", "reproduce_all"])
def test_drawings_and_sweeps_get_the_options_that_they_know(sessions, name: str) -> None:
    given = ["--profile", "smoke", "--jobs", "2", "--workers=1", "--device", "cpu", "--no-progress", "--seeds", "1"]
    sessions[name](run := Session(*given))
    (drawn,) = (line for line in run.ran if line.startswith("python -m reports figure1"))
    assert drawn == "python -m reports figure1 --profile smoke --device cpu --no-progress --seeds 1"
    assert f"python -m ablations run figure1 {' '.join(given)}" in run.ran
    sweeps = [line for line in run.ran if "ablations sweep" in line]
    assert len(sweeps) == (2 if name == "reproduce_all" else 0)
    assert all(line.endswith("--profile smoke --workers=1 --device cpu --no-progress --seeds 1") for line in sweeps)
