"""Workflows: `nox -l` lists them. Arguments after `--` go to the command."""

import ast
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).parent
#: Seconds that Ctrl-C leaves a run to finish its step and save its state.
PATIENCE = 60.0


def install(session: nox.Session, *groups: str, project: str = ".") -> None:
    """Install this project, editable, with dependency groups of pyproject.toml."""
    session.install("-e", project, *(word for group in groups for word in ("--group", group)))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite except for slow tests, one process per core; `-- -k NAME` and the like go to pytest."""
    install(session, "test", project=".[onnx,ray,slurm]")
    session.run("pytest", "-m", "not slow", "-n", "auto", "--dist", "worksteal", *session.posargs)


@nox.session
def tests_slow(session: nox.Session) -> None:
    """Run the slow tests: whole studies, kills and resumptions, ONNX."""
    install(session, "test", project=".[onnx,ray,slurm]")
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session(python="3.11")
def tests_oldest(session: nox.Session) -> None:
    """Run the test suite with the lower bounds of pyproject.toml on the oldest Python; arguments go to pytest."""
    session.env["UV_RESOLUTION"] = "lowest-direct"
    install(session, "test", project=".[onnx,ray,slurm]")
    session.run("pytest", *(session.posargs or ["-m", "not slow", "-n", "auto", "--dist", "worksteal"]))


@nox.session
def tests_browser(session: nox.Session) -> None:
    """Test the report in a headless Chromium, which must be installed (Debian: apt-get install chromium)."""
    install(session, "browser")
    session.run("pytest", "-m", "browser", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style."""
    session.install("--group", "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the four packages."""
    install(session, "types")
    session.run("mypy")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed, as ratios within one run; `-- -k NAME` goes to pytest; `-m slow` measures the default run."""
    install(session, "bench")
    session.run("pytest", "bench/suites", "-m", "not slow", "--benchmark-columns=min,median,rounds", *session.posargs)


@nox.session
def profile(session: nox.Session) -> None:
    """Measure counts, latency, throughput and memory of networks, ranking, pseudo-labels; arguments go to `latency`."""
    install(session)
    session.run("python", "-m", "bench", "cost", "--csv", "results/bench/cost.csv")
    for command in ("latency", "throughput", "memory", "retrieval", "clustering"):
        session.run("python", "-m", "bench", command, *(session.posargs if command == "latency" else []))


@nox.session
def report(session: nox.Session) -> None:
    """Build the report, results/report/index.html, from finished runs; arguments go to `reports build`."""
    install(session)
    session.run("python", "-m", "reports", "build", *session.posargs, interrupt_timeout=PATIENCE)


def studies() -> dict[str, str]:
    """Files of ablations/studies, with the first line of their docstrings."""
    paths = sorted((ROOT / "ablations" / "studies").glob("[!_]*.py"))
    docstrings = {path.stem: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in paths}
    return {name: (docstring or "").partition("\n")[0] for name, docstring in docstrings.items()}


STUDIES = studies()
#: Studies that `python -m reports NAME` draws: activation maps and ranked lists.
PICTURES = ("figure1", "figure4", "figure6")
PARTS_OF_FIGURE_5 = [name for name in STUDIES if name.startswith("figure5")]


def run_study(session: nox.Session, name: str) -> None:
    """Run a study, or a sweep and its study."""
    words = ["run", name, *session.posargs]
    if name.startswith("sweep_"):
        words = ["sweep", name.removeprefix("sweep_"), *without(ONLY_RUN, session.posargs)]
    session.run("python", "-m", "ablations", *words, interrupt_timeout=PATIENCE)


def draw(session: nox.Session, name: str) -> None:
    """Draw a study of `PICTURES`, with the options that only concern runs left out."""
    unknown = {option: values for option, values in run_options().items() if option not in options_of("RankingOptions")}
    session.run("python", "-m", "reports", name, *without(unknown, session.posargs))


def project(session: nox.Session) -> str:
    """This project with the extra that `--on ray` or `--on slurm` needs."""
    words = [word for argument in session.posargs for word in argument.split("=")]
    return next((f".[{name}]" for name in ("ray", "slurm") if name in words and "--on" in words), ".")


def register(session_name: str, parts: list[str], what: str) -> None:
    """Register the session that runs studies one after the other and draws those of `PICTURES`."""

    def run(session: nox.Session) -> None:
        install(session, project=project(session))
        for name in parts:
            run_study(session, name)
            if name in PICTURES:
                draw(session, name)

    run.__doc__ = what
    nox.session(run, name=session_name)


for name, what in STUDIES.items():
    register(name if name.startswith("sweep_") else f"reproduce_{name}", [name], what)
register("reproduce_figure5", PARTS_OF_FIGURE_5, "Figure 5: all parts, one after the other.")


#: Options of `ablations run` alone that do not change results, with the number of values that follow each.
ONLY_RUN = {"--jobs": 1, "--minutes": 1, "--step-times": 1, "--table": 0, "--no-table": 0}


def options_of(*classes: str) -> dict[str, int]:
    """Options that the classes of the two modules of options define, with the number of values that follow each."""
    files = (ROOT / "msinet" / "training" / "options.py", ROOT / "ablations" / "engine" / "options.py")
    nodes = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    found: dict[str, int] = {}
    for one in (node for node in nodes if isinstance(node, ast.ClassDef) and node.name in classes):
        for field in (node for node in one.body if isinstance(node, ast.AnnAssign)):
            name = ast.unparse(field.target).replace("_", "-")
            flag = ast.unparse(field.annotation) == "bool"
            found |= {f"--{name}": 0, f"--no-{name}": 0} if flag else {f"--{name}": 1}
    return found


def run_options() -> dict[str, int]:
    """Options of `ablations run` that do not change results, with the number of values that follow each."""
    return ONLY_RUN | options_of("RankingOptions", "RunOptions", "ClusterOptions")


def request(words: list[str]) -> list[str]:
    """The arguments without run options, which commands that only read results do not accept."""
    return without(run_options(), words)


def without(options: dict[str, int], words: list[str]) -> list[str]:
    """The arguments without some options, which are given with the number of values that follow each."""
    kept, skip = [], 0
    for word in words:
        name, equals, _ = word.partition("=")
        if skip:
            skip -= 1
        elif name in options:
            skip = 0 if equals else options[name]
        else:
            kept.append(word)
    return kept


@nox.session
def reproduce_all(session: nox.Session) -> None:
    """Reproduce all tables and figures, measure costs, build the report; arguments go to `ablations run`.

    Studies beyond the paper run in profile smoke only: in the others they take hours. The report names their commands.
    """
    install(session, project=project(session))
    words = request(session.posargs)
    smoke = "smoke" in words or "--profile=smoke" in words
    paper = [name for name in STUDIES if name.startswith(("table", "figure"))]
    beyond = [name for name in STUDIES if name not in paper] if smoke else []
    for name in sorted([*paper, *beyond], key=lambda name: name != "table2"):  # the others share its runs
        run_study(session, name)
    for name in PICTURES:
        draw(session, name)
    for drawn in ("curves table2", "factors table2", "searches table1", "searches figure5a", "clusters table4"):
        # Status 2: photographs have no factors.
        session.run("python", "-m", "reports", *drawn.split(), *words, success_codes=[0, 2])
    networks = ["--study", "table2", "--rounds", "5"]
    narrow = ["--profile", "smoke"] if smoke else []  # added to the whole networks, which claims are about
    session.run("python", "-m", "bench", "latency", *networks, *narrow, "--batches", "32")
    session.run("python", "-m", "bench", "throughput", *networks, "--batches", "1", "32")
    session.run("python", "-m", "bench", "memory", "--study", "table2")
    session.run("python", "-m", "bench", "retrieval", "--rounds", "2")
    session.run("python", "-m", "bench", "clustering", "--sizes", "market1501")
    # Status 2: a table without the column M, which that figure shows.
    session.run("python", "-m", "reports", "costs", *words, success_codes=[0, 2])
    session.run("python", "-m", "reports", "build", *words)
