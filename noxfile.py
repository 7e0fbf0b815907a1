"""Workflows people run: `nox -l` lists them; what follows `--` goes to the command."""

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "types", "tests"]


#: Seconds that Ctrl-C leaves a run to finish its step and save its state.
PATIENCE = 60.0


def install(session: nox.Session, *groups: str, project: str = ".") -> None:
    """This project, editable, with dependency groups of pyproject.toml."""
    session.install("-e", project, *(word for group in groups for word in ("--group", group)))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite but for its slow part, a process per core; `-- -k NAME` and the like go to pytest."""
    install(session, "test", project=".[onnx,cluster]")
    session.run("pytest", "-m", "not slow", "-n", "auto", "--dist", "worksteal", *session.posargs)


@nox.session
def tests_slow(session: nox.Session) -> None:
    """Run the slow part of the test suite: whole catalogues, kills and resumptions, ONNX."""
    install(session, "test", project=".[onnx,cluster]")
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session
def tests_browser(session: nox.Session) -> None:
    """Look at the report in a headless Chromium, which must be installed (Debian: apt-get install chromium)."""
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
    """Check types of the four packages."""
    install(session, "types")
    session.run("mypy")


@nox.session
def bench(session: nox.Session) -> None:
    """Speed, as ratios within one run; `-- -k NAME` and the like go to pytest."""
    install(session, "bench")
    session.run("pytest", "bench/suites", "--benchmark-columns=min,median,rounds", *session.posargs)


@nox.session
def profile(session: nox.Session) -> None:
    """What networks cost: counts, latency, throughput, memory, ranking; words go to `bench latency`."""
    install(session)
    session.run("python", "-m", "bench", "cost", "--csv", "results/bench/cost.csv")
    for command in ("latency", "throughput", "memory", "retrieval"):
        session.run("python", "-m", "bench", command, *(session.posargs if command == "latency" else []))


@nox.session
def report(session: nox.Session) -> None:
    """Build the report, results/report/index.html, from what has run; `-- --profile smoke` and the like go to it."""
    install(session)
    session.run("python", "-m", "reports", "build", *session.posargs, interrupt_timeout=PATIENCE)


@nox.session
def calibrate(session: nox.Session) -> None:
    """How hard the rendered world is: per set, across sets and by factor; options as for reproduce_table2."""
    install(session)
    session.run("python", "-m", "ablations", "run", "calibration", *session.posargs, interrupt_timeout=PATIENCE)
    session.run("python", "-m", "reports", "factors", "calibration", *session.posargs)


#: Networks of Table 2.
NETWORKS = ("msinet", "osnet", "cdnet", "resnet50")
#: Catalogues of `ablations` that have a session of their own.
REPRODUCED = {
    "table1": "search an architecture and train it beside the paper's",
    "table2": "four networks; `-- --data-root DIR --profile mini --seeds 2` and the like go to `ablations run`",
    "table3": "ours beside the supervised methods that the paper cites; runs of Table 2",
    "table5": "variants of spatial alignment",
    "table6": "transformers beside MSINet",
    "figure5": "all five parts, one after the other",
    "figure5a": "search mechanism and overlap",
    "figure5b": "single operations, random and searched architectures",
    "figure5c": "fusion of the branches",
    "figure5d": "scale ratio",
    "figure5e": "weight of spatial alignment",
}


def reproduce(name: str, what: str) -> None:
    """Register the session that runs a catalogue."""

    def run(session: nox.Session) -> None:
        install(session)
        for part in [f"figure5{letter}" for letter in "abcde"] if name == "figure5" else [name]:
            session.run("python", "-m", "ablations", "run", part, *session.posargs, interrupt_timeout=PATIENCE)

    run.__doc__ = f"{name.capitalize()}: {what}."
    nox.session(run, name=f"reproduce_{name}")


for name, what in REPRODUCED.items():
    reproduce(name, what)

#: Figures that are drawn from the runs of a catalogue of their own name: pictures of what networks see and find.
PICTURED = {
    "figure1": "activation maps of two networks, and distances to the nearest negatives",
    "figure4": "maps after each cell of MSINet",
    "figure6": "ranked lists with distances",
}
#: Options of `ablations run` that say how, not what; with the words that follow each.
HOW = {"--device": 1, "--workers": 1, "--cache": 1, "--evaluate-every": 1}
HOW |= {f"--{no}{name}": 0 for name in ("progress", "resume", "deterministic") for no in ("", "no-")}


def request(words: list[str]) -> list[str]:
    """What follows `--` without the options that say how: commands that only read results take no such."""
    kept, skip = [], 0
    for word in words:
        name, equals, _ = word.partition("=")
        if skip:
            skip -= 1
        elif name in HOW:
            skip = 0 if equals else HOW[name]
        else:
            kept.append(word)
    return kept


def picture(name: str, what: str) -> None:
    """Register the session that runs what a picture shows and draws it."""

    def run(session: nox.Session) -> None:
        install(session)
        session.run("python", "-m", "ablations", "run", name, *session.posargs, interrupt_timeout=PATIENCE)
        session.run("python", "-m", "reports", name, *session.posargs)

    run.__doc__ = f"{name.capitalize()}: {what}; options as for reproduce_table2."
    nox.session(run, name=f"reproduce_{name}")


for name, what in PICTURED.items():
    picture(name, what)


@nox.session
def reproduce_all(session: nox.Session) -> None:
    """Every table and figure, runs shared, costs, then the report; options as for reproduce_table2."""
    install(session)
    what = request(session.posargs)
    parts = ["table2", *PICTURED, *(name for name in REPRODUCED if name not in ("table2", "figure5"))]
    smoke = "smoke" in what or "--profile=smoke" in what
    # Studies beyond the paper's tables and figures: in the longer profiles they take hours, and have commands of their
    # own, which the report names.
    parts += ["discrepancies", "alignment_readings", "calibration"] if smoke else []
    for name in parts:
        session.run("python", "-m", "ablations", "run", name, *session.posargs, interrupt_timeout=PATIENCE)
    for name in ("overlap", "alignment") if smoke else ():
        session.run("python", "-m", "ablations", "sweep", name, *session.posargs, interrupt_timeout=PATIENCE)
    for name in PICTURED:
        session.run("python", "-m", "reports", name, *session.posargs)
    session.run("python", "-m", "reports", "table", "table4", *what)
    for drawn in ("curves table2", "factors table2", "searches table1", "searches figure5a"):
        # Photographs have no factors: status 2 says so and is no reason to stop.
        session.run("python", "-m", "reports", *drawn.split(), *what, success_codes=[0, 2])
    timed = [*NETWORKS, *(f"{name}_x0_25" for name in NETWORKS if smoke)]  # claims are of the whole ones
    session.run("python", "-m", "bench", "latency", "--models", *timed, "--batches", "32", "--rounds", "5")
    session.run("python", "-m", "bench", "throughput", "--models", *NETWORKS, "--batches", "1", "32", "--rounds", "5")
    session.run("python", "-m", "bench", "memory", "--models", *NETWORKS)
    session.run("python", "-m", "bench", "retrieval", "--rounds", "2")
    # Status 2: a table without the column M, whose accuracy that figure shows.
    session.run("python", "-m", "reports", "costs", *what, success_codes=[0, 2])
    session.run("python", "-m", "reports", "build", *what)


@nox.session
def sweep_overlap(session: nox.Session) -> None:
    """Choose the search's overlap by an Optuna study; `-- --trials 12 --vary overlap temperature` and the like."""
    install(session)
    session.run("python", "-m", "ablations", "sweep", "overlap", *session.posargs, interrupt_timeout=PATIENCE)


@nox.session
def sweep_alignment(session: nox.Session) -> None:
    """Choose the weight of spatial alignment by an Optuna study; `-- --trials 12` and the like."""
    install(session)
    session.run("python", "-m", "ablations", "sweep", "alignment", *session.posargs, interrupt_timeout=PATIENCE)
