"""Command line: python -m reports build | table | claims | reference | curves | clusters | figure1 | figure4 | ..."""

import gc
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import tyro

from ablations.engine.reference import reference_folder
from ablations.engine.request import Request
from ablations.studies import STUDIES, find_study
from msinet.errors import UserError
from msinet.io import check_writable, write_text
from msinet.terminal import example_at_end, exit_status, expanded, quietly
from msinet.training.options import RankingOptions
from reports.formats import as_text, brief, write_table
from reports.layout import shown_table
from reports.results import ReferenceResults, Results, file_name

if TYPE_CHECKING:
    from msinet.data import Dataset

# Commands import the modules that draw or rank themselves, because importing matplotlib and torch takes seconds.


@dataclass(frozen=True)
class Source:
    """The choice between the results of the store and the committed reference results."""

    reference: bool = False
    """show the reference results alone, without a store, data or torch"""
    machine: str = ""
    """machine of the reference results; empty: for each table, the machine with the most runs"""

    def results(self, request: Request) -> Results:
        """The results of a request."""
        return (ReferenceResults if self.reference else Results)(request, self.machine)


Name = Annotated[str, tyro.conf.Positional]
Asked = Annotated[Request, tyro.conf.OmitArgPrefixes]
Options = Annotated[RankingOptions, tyro.conf.OmitArgPrefixes]
Origin = Annotated[Source, tyro.conf.OmitArgPrefixes]


def written(paths: Sequence[Path]) -> int:
    """Print the files that a command wrote; status 0."""
    print("written: " + ", ".join(map(str, paths)))
    return 0


@dataclass(frozen=True)
class Table:
    """Show a table next to the reference results and the paper's numbers; write it as text, Markdown, LaTeX and CSV.

    If nothing was measured here, the table shows only the reference results.
    """

    name: Name
    """table or figure; python -m ablations list shows them"""
    request: Asked = field(default_factory=Request)
    source: Origin = field(default_factory=Source)
    brief: bool = False
    """show only rows with results, without notes"""
    out: Path | None = None
    """folder for the files; by default tables/ in the store"""

    def __call__(self) -> int:
        """Build, print and write the table; draw the figure of an ablation."""
        find_study(self.name)
        results, table = shown_table(self.source.results(self.request), self.name)
        stem = (self.out or results.folder / "tables") / file_name(self.name, self.request)
        files = write_table(table, stem)
        print(as_text(brief(table) if self.brief else table))
        if self.brief:
            return 0
        if table.study is not None and table.study.baseline and table.done:
            from reports.figures import draw_study

            files += draw_study(results, self.name, self.out or results.folder / "figures")
        return written(files)


@dataclass(frozen=True)
class Drawing:
    """Options of a figure of a study's runs."""

    name: Name = "table2"
    """table or figure"""
    request: Asked = field(default_factory=Request)
    source: Origin = field(default_factory=Source)
    out: Path | None = None
    """folder for the files; by default figures/ in the store"""

    def draw(self, work: Callable[[Results, str, Path], list[Path]]) -> int:
        """Draw and write the figure."""
        results = self.source.results(self.request)
        return written(work(results, self.name, self.out or results.folder / "figures"))


@dataclass(frozen=True)
class Curves(Drawing):
    """Draw loss, accuracy and learning rate against training steps, and mAP for runs made with --evaluate-every."""

    def __call__(self) -> int:
        """Draw and write the curves."""
        from reports.curves import draw_study_curves

        return self.draw(draw_study_curves)


@dataclass(frozen=True)
class Picture:
    """Options of figures that show queries."""

    request: Asked = field(default_factory=Request)
    images: int = 1
    """number of queries, evenly spaced through the set"""
    out: Path | None = None
    """folder for the files; by default figures/ in the store"""
    run_options: Options = field(default_factory=RankingOptions)

    @property
    def folder(self) -> Path:
        """Folder of the files."""
        return self.out or self.request.store / "figures"


@dataclass(frozen=True)
class Figure1(Picture):
    """Draw activation maps of networks on the same images, and distances to the nearest negatives."""

    images: int = 8

    def __call__(self) -> int:
        """Draw and write the figure."""
        from reports.pictures import figure1

        return written(figure1(Results(self.request), self.folder, self.images, self.run_options))


@dataclass(frozen=True)
class Figure4(Picture):
    """Draw activation maps after each MSI cell of MSINet."""

    images: int = 5

    def __call__(self) -> int:
        """Draw and write the figure."""
        from reports.pictures import figure4

        return written(figure4(Results(self.request), self.folder, self.images, self.run_options))


@dataclass(frozen=True)
class Figure6(Picture):
    """Draw ranked lists of networks for the same queries, with distances; frames mark right and wrong images."""

    images: int = 3
    length: int = 15
    """number of images in a list"""
    weights: tuple[Path, ...] = ()
    """weights files, or folders of msinet train, instead of runs in the store; needs --data-root"""

    def __call__(self) -> int:
        """Draw and write the figure."""
        from reports.pictures import figure6, figure6_of

        if self.weights:
            dataset, options = given_dataset(self.request), self.run_options
            return written(figure6_of(self.weights, dataset, self.folder, self.images, self.length, options))
        return written(figure6(Results(self.request), self.folder, self.images, self.run_options, self.length))


@dataclass(frozen=True)
class Ranked:
    """Build a browser of ranked lists for given weights on a data set: one HTML file that works offline."""

    weights: tuple[Path, ...]
    """weights files, or folders of msinet train"""
    request: Asked = field(default_factory=Request)
    queries: int = 8
    """number of queries, evenly spaced through the set"""
    out: Path = Path("ranked.html")
    """file to write"""
    run_options: Options = field(default_factory=RankingOptions)

    def __call__(self) -> int:
        """Rank and write the page."""
        from reports.page.build import build_browser

        if self.queries < 1:
            raise UserError(f"--queries must be at least 1, got {self.queries}")
        check_writable(self.out)
        build_browser(self.weights, given_dataset(self.request), self.queries, self.run_options, self.out)
        return written([self.out])


def given_dataset(request: Request) -> "Dataset":
    """The data set on which given weights are shown: the one that is named, or the only one under the data root.

    Raises:
        UserError: several are possible.
    """
    request.check()
    names = request.available_datasets()
    if len(names) > 1:
        raise UserError(f"{request.root} holds {', '.join(names)}; choose one with --datasets")
    return request.load(names[0])


@dataclass(frozen=True)
class Searches(Drawing):
    """Draw the architecture parameters of a table's searches over the epochs, and the genotypes next to the paper's."""

    name: Name = "table1"
    """table with searches: table1, figure5a, figure5b, discrepancies"""

    def __call__(self) -> int:
        """Draw and write the figures."""
        from reports.searches import draw_searches

        return self.draw(draw_searches)


@dataclass(frozen=True)
class Clusters(Drawing):
    """Draw the number of clusters and outliers over the epochs, and their agreement with the hidden identities."""

    name: Name = "table4"
    """table of methods without labels"""

    def __call__(self) -> int:
        """Draw and write the figure."""
        from reports.clusters import draw_clusters

        return self.draw(draw_clusters)


@dataclass(frozen=True)
class Factors:
    """Show accuracy by occlusion, view change and light, for runs that were ranked on the rendered world."""

    name: Name
    """table or figure, such as table2 or calibration"""
    request: Asked = field(default_factory=Request)
    source: Origin = field(default_factory=Source)
    out: Path | None = None
    """folder for the files; by default tables/ and figures/ in the store"""

    def __call__(self) -> int:
        """Build, print, draw and write the tables."""
        from reports.factors import as_markdown, by_factor, draw_study_factors, write_factors

        results = self.source.results(self.request)
        data = by_factor(results, self.name)
        name = f"{file_name(self.name, self.request)}-factors"
        files = write_factors(data, (self.out or results.folder / "tables") / name)
        files += draw_study_factors(data, results, self.name, self.out or results.folder / "figures")
        print(as_markdown(data))
        return written(files)


@dataclass(frozen=True)
class Costs:
    """Draw accuracy against latency and parameters, and the roofline of the machine."""

    name: Name = "table2"
    """table that the accuracy comes from"""
    latency: Path = Path("results/bench/latency.csv")
    """file of python -m bench latency"""
    column: str = "M"
    """column of the table: M, MS, VR, ..."""
    form: str = "deployed"
    """form whose latency is drawn: eager, channels_last, deployed, ..."""
    batch: int = 32
    """batch size at which the latency was measured"""
    request: Asked = field(default_factory=Request)
    out: Path | None = None
    """folder for the files; by default figures/ in the store"""

    def __call__(self) -> int:
        """Draw and write the figures."""
        from reports.costs import accuracy_data, draw_accuracy, draw_roofline, read_latencies

        latencies, environment = read_latencies(self.latency)
        folder = self.out or self.request.store / "figures"
        files = draw_roofline(latencies, environment, folder / "roofline")
        data = accuracy_data(latencies, Results(self.request), self.name, self.column, self.form, self.batch)
        size = f"{latencies['height'].iloc[0]}x{latencies['width'].iloc[0]}"
        title = f"{self.column}, profile {self.request.profile}, against {self.form} at batch {self.batch} and {size}"
        return written(files + draw_accuracy(data, title, folder / f"{file_name(self.name, self.request)}-cost"))


@dataclass(frozen=True)
class Claims:
    """Judge the paper's statements by the finished runs. Exit status 1 if one about accuracy fails."""

    request: Asked = field(default_factory=Request)
    source: Origin = field(default_factory=Source)
    latency: Path = Path("results/bench/latency.csv")
    """file of python -m bench latency, for claims about speed; used if it exists"""
    strict: bool = False
    """exit status 1 unless every statement holds"""
    out: Path | None = None
    """folder for the files; by default tables/ in the store"""

    def __call__(self) -> int:
        """Judge, print and write the claims."""
        from reports.statistics import Status
        from reports.verdicts import as_frame, as_markdown, judge, verdict_counts

        request, results = self.request, self.source.results(self.request)
        latency, latencies = results.bench_file(self.latency), None
        if latency.exists():
            from reports.costs import read_latencies

            latencies = read_latencies(latency)[0]
        verdicts = judge(results, latencies)
        counts = Counter(verdict.status for verdict in verdicts)
        text = ", ".join(f"{counts[status]} {status}" for status in get_args(Status))
        data = "the rendered world" if request.rendered else str(request.root)
        origin = "reference results, " if results.is_reference else ""
        title = f"{len(verdicts)} claims, {origin}profile {request.profile} on {data}, {results.repetitions}: {text}"
        stem = (self.out or results.folder / "tables") / file_name("claims", request)
        write_text(stem.with_suffix(".md"), as_markdown(verdicts, title))
        write_text(stem.with_suffix(".csv"), as_frame(verdicts).to_csv(index=False))
        for verdict in verdicts:
            print(f"{verdict.status:<12}  {verdict.claim.statement} ({verdict.claim.source})")
            for outcome in verdict.outcomes:
                print(f"              {outcome.text}")
        print(f"{title}\nwritten: {stem}.md, {stem}.csv")
        failed = verdict_counts(verdicts, costs=False)["fails"]
        return 1 if failed or (self.strict and counts["holds"] < len(verdicts)) else 0


@dataclass(frozen=True)
class Build:
    """Build the report from the results in the store or the reference results: one HTML file that works offline."""

    request: Asked = field(default_factory=Request)
    source: Origin = field(default_factory=Source)
    latency: Path = Path("results/bench/latency.csv")
    """file of python -m bench latency; throughput, memory and retrieval files are read from the same folder"""
    queries: int = 8
    """number of queries of each data set in the browser of ranked lists"""
    device: str = "auto"
    """device that computes features and activation maps: cpu, cuda, cuda:N, or auto"""
    out: Path | None = None
    """folder for index.html with its figures and tables; by default report/ in the store"""

    def __call__(self) -> int:
        """Build the report. The page lists the missing parts and the commands that produce them."""
        from reports.page.build import build
        from reports.page.report import Report

        if self.queries < 1:
            raise UserError(f"--queries must be at least 1, got {self.queries}")
        gc.freeze()  # else a tenth of the time goes into garbage collection of imported modules
        results = self.source.results(self.request)
        out = self.out or results.folder / "report"
        options = RankingOptions(device=self.device)
        missing = build(Report(results, results.bench_file(self.latency), self.queries, options, out))
        size = (out / "index.html").stat().st_size / 2**20
        text = f", {len(missing)} parts missing, listed at its end" if missing else ""
        print(f"written: {out / 'index.html'} ({size:.1f} MiB{text}), {out / 'tables'}, {out / 'figures'}")
        return 0


@dataclass(frozen=True)
class Add:
    """Add the finished runs of a store to the reference results of a machine."""

    machine: str
    """name of the machine's folder, such as epyc-2-cores"""
    studies: tuple[str, ...] = tuple(STUDIES)
    """tables and figures to add"""
    request: Asked = field(default_factory=Request)
    about: str = ""
    """description of the machine; empty: as before, for a new machine its processor or device"""
    who: str = ""
    """person who made the runs; empty: as before"""
    replace: bool = False
    """replace different results of the same experiments"""
    folder: Path | None = None
    """folder of the reference results; by default reference/ of this checkout"""

    def __call__(self) -> int:
        """Add the runs and print the files."""
        from reports.contributions import Machine, add

        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.machine):
            raise UserError(f"--machine {self.machine!r}: use lower-case letters, digits and the characters . _ -")
        machine = Machine((self.folder or reference_folder()) / self.machine, self.about, self.who)
        for line in add(self.request, self.studies, machine, replacing=self.replace):
            print(line)
        return 0


@dataclass(frozen=True)
class Check:
    """Check all reference results. Exit status 1 if a file is damaged, inconsistent or from other code."""

    folder: Annotated[Path | None, tyro.conf.Positional] = None
    """folder of the reference results; by default reference/ of this checkout"""

    def __call__(self) -> int:
        """Print the problems."""
        from reports.contributions import check

        folder = self.folder or reference_folder()
        if not folder.is_dir():
            raise UserError(f"the folder of reference results {folder} does not exist")
        problems = list(check(folder))
        for problem in problems:
            print(problem)
        print(f"{len(problems)} problems in {folder}" if problems else f"{folder} is valid")
        return 1 if problems else 0


@dataclass(frozen=True)
class Listing:
    """List the reference results: machines, studies, numbers of runs, commands."""

    folder: Annotated[Path | None, tyro.conf.Positional] = None
    """folder of the reference results; by default reference/ of this checkout"""

    def __call__(self) -> int:
        """Print the list."""
        from reports.contributions import listing

        folder = self.folder or reference_folder()
        lines = list(listing(folder))
        print("\n".join(lines) or f"no reference results in {folder}; docs/reference.md shows how to add some")
        return 0


@dataclass(frozen=True)
class Reference:
    """Add, check or list the committed reference results."""

    action: tyro.conf.OmitSubcommandPrefixes[
        tyro.conf.OmitArgPrefixes[
            Annotated[Add, tyro.conf.subcommand("add")]
            | Annotated[Check, tyro.conf.subcommand("check")]
            | Annotated[Listing, tyro.conf.subcommand("list")]
        ]
    ]

    def __call__(self) -> int:
        """Carry out the action."""
        return self.action()


COMMANDS: dict[str, Callable[..., Callable[[], int]]] = {
    "build": Build,
    "table": Table,
    "curves": Curves,
    "figure1": Figure1,
    "figure4": Figure4,
    "figure6": Figure6,
    "ranked": Ranked,
    "searches": Searches,
    "clusters": Clusters,
    "factors": Factors,
    "costs": Costs,
    "claims": Claims,
    "reference": Reference,
}

#: Shown after the help of each command.
EXAMPLES = {
    "build": "--reference",
    "table": "table2 --reference",
    "curves": "table2",
    "figure1": "--profile mini",
    "figure4": "--profile mini",
    "figure6": "--data-root DIR --weights runs/a/model.safetensors",
    "ranked": "--data-root DIR --weights runs/a/model.safetensors",
    "searches": "table1",
    "clusters": "table4",
    "factors": "table2",
    "costs": "--profile mini",
    "claims": "--reference",
    "reference": "check",
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 2 for a user error, 130 for Ctrl-C."""

    def command() -> int:
        with example_at_end("python -m reports", args, EXAMPLES):
            chosen: Callable[[], int] = tyro.extras.subcommand_cli_from_dict(
                COMMANDS, prog="python -m reports", description="Tables and figures from finished runs.", args=args
            )
        return int(expanded(chosen)())

    return exit_status(command, "finished embeddings are kept, and the same command resumes")


if __name__ == "__main__":
    sys.exit(quietly(main))
