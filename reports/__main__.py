"""Command line: python -m reports build | table | curves | figure1 | figure4 | figure6 | searches | factors | ..."""

import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro

from ablations.catalogue import Catalogue, Request
from ablations.index import CATALOGUES, find_catalogue
from ablations.store import Store
from ablations.sweep import summary_path
from ablations.table2 import NETWORKS
from msinet.data import Dataset
from msinet.errors import UserError
from msinet.io import file_errors, write_text
from msinet.models.genotype import SEARCHED
from msinet.progress import bar
from msinet.training.options import RunOptions
from reports import page, tables
from reports.claims import as_frame as claims_frame
from reports.claims import as_markdown as claims_markdown
from reports.claims import judge
from reports.costs import accuracy_data, draw_accuracy, draw_roofline, read_latencies
from reports.factors import as_markdown, by_factor, draw_factors, write_factors
from reports.figures import (
    NUMBERED,
    by_group,
    curve_data,
    draw_curves,
    draw_levels,
    draw_rows,
    draw_sweep,
    draw_training,
    row_data,
    training_data,
)
from reports.lists import draw_lists
from reports.maps import Looked, distance_data, draw_distances, draw_maps, look, networks
from reports.ranked import load_run, ranked_lists, spread_queries
from reports.searches import PAPER, draw_genotypes, draw_trajectory, searches, trajectory
from reports.tables import as_text, brief, build_table, write_table


@dataclass(frozen=True)
class Table:
    """Show a table beside the paper's numbers and write it as text, Markdown, LaTeX and CSV."""

    name: Annotated[str, tyro.conf.Positional]
    """table, such as table2"""
    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)
    brief: bool = False
    """only the rows that have results, and no notes"""
    out: Path | None = None
    """folder for the files; by default tables/ in the store"""

    def __call__(self) -> int:
        """Build, print and write it."""
        if self.name in tables.NOT_HERE:
            table = tables.paper_table(self.name)
            written = write_table(table, (self.out or self.request.store / "tables") / self.name)
            print(as_text(table))
            print("written: " + ", ".join(map(str, written)))
            return 0
        catalogue = find_catalogue(self.name)
        table = build_table(catalogue, self.request)
        stem = (self.out or self.request.store / "tables") / file_name(self.name, self.request)
        written = write_table(table, stem)
        if self.brief:
            print(as_text(brief(table)))
            return 0
        print(as_text(table))
        if catalogue.baseline:
            written += draw_ablation(catalogue, self.request, table, self.out)
        print("written: " + ", ".join(map(str, written)))
        return 0


def draw_ablation(catalogue: Catalogue, request: Request, table: tables.Table, out: Path | None) -> list[Path]:
    """The figure of an ablation's rows, and of its sweep if it has one; nothing while nothing has run."""
    folder = out or request.store / "figures"
    name = file_name(catalogue.name, request)
    written = []
    data = row_data(table, Store(request.store).frame())
    title = f"{table.title}, profile {request.profile}, {request.repetitions}"
    numbered = NUMBERED.get(catalogue.name)
    if len(data) and numbered is not None:
        written += draw_levels(data, title, numbered, folder / f"{name}-rows")
    elif len(data):
        written += draw_rows(data, title, catalogue.baseline, folder / f"{name}-rows")
    outcome = summary_path(request, catalogue.name.removeprefix("sweep_"))
    if catalogue.name.startswith("sweep_") and outcome.exists():
        written += draw_sweep(outcome, folder / f"{name}-trials")
    return written


@dataclass(frozen=True)
class Curves:
    """Draw loss, accuracy and learning rate against training steps, and mAP for runs made with --evaluate-every."""

    name: Annotated[str, tyro.conf.Positional]
    """table, such as table2"""
    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)
    out: Path | None = None
    """folder for the files; by default figures/ in the store"""

    def __call__(self) -> int:
        """Draw and write them."""
        print("written: " + ", ".join(map(str, self.draw())))
        return 0

    def draw(self) -> list[Path]:
        """The files that were written."""
        catalogue, store = find_catalogue(self.name), Store(self.request.store)
        stem = (self.out or self.request.store / "figures") / file_name(self.name, self.request)
        profile = f"profile {' '.join((self.request.profile, *self.request.recipe))}"
        data = training_data(store, catalogue, self.request)
        written = []
        for group, part, name in by_group(data, stem.with_name(f"{stem.name}-training")):
            written += draw_training(part, f"Training, {group}, {profile}", name)
        try:
            evaluated = curve_data(store, catalogue, self.request)
        except UserError as error:
            print(f"no curve of mAP: {error}")
        else:
            title = f"mAP while training, {profile}"
            written += draw_curves(evaluated, title, stem.with_name(f"{stem.name}-curves"))
        return written


@dataclass(frozen=True)
class Picture:
    """What networks see and find, drawn from finished runs."""

    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)
    images: int = 1
    """queries to show, evenly spaced through the set"""
    out: Path | None = None
    """folder for the files; by default figures/ in the store"""
    run_options: Annotated[RunOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RunOptions)

    def __call__(self) -> int:
        """Draw and write it."""
        print("written: " + ", ".join(map(str, self.draw())))
        return 0

    def draw(self) -> list[Path]:
        """The files that were written."""
        raise NotImplementedError


@dataclass(frozen=True)
class Figure1(Picture):
    """Activation maps of networks on the same images, and how far they push the nearest negatives away."""

    images: int = 8

    def draw(self) -> list[Path]:
        """The files that were written."""
        store = Store(self.request.store)
        looked, dataset = networks(CATALOGUES["figure1"], self.request)
        queries = some_queries(dataset, self.images)
        seen = [look(store, one.run_ids[0], dataset, queries, one.label, self.run_options) for one in looked]
        every = replace(seen[0], maps={name: maps for one in seen for name, maps in one.maps.items()})
        where = where_trained(looked[0], dataset, self.request)
        stem = (self.out or self.request.store / "figures") / file_name("figure1", self.request)
        written = draw_maps(
            every, f"Figure 1, left: activation maps, {where}", stem.with_name(f"{stem.name}-maps"), upright=True
        )
        data = distance_data(store, looked, dataset, self.run_options)
        title = f"Figure 1, right: distances of {data['query'].nunique()} queries, {where}"
        written += draw_distances(data, title, stem.with_name(f"{stem.name}-distances"))
        return written


@dataclass(frozen=True)
class Figure4(Picture):
    """Activation maps after each MSI cell of MSINet."""

    images: int = 5

    def draw(self) -> list[Path]:
        """The files that were written."""
        looked, dataset = networks(CATALOGUES["figure4"], self.request)
        queries = some_queries(dataset, self.images)
        seen = look(Store(self.request.store), looked[0].run_ids[0], dataset, queries, "", self.run_options)
        stem = (self.out or self.request.store / "figures") / file_name("figure4", self.request)
        where = where_trained(looked[0], dataset, self.request)
        title = f"Figure 4: maps after each cell of {looked[0].label}, {where}"
        return draw_maps(seen, title, stem, upright=False)


@dataclass(frozen=True)
class Figure6(Picture):
    """Ranked lists of networks for the same queries, with distances; what is right and wrong is framed."""

    images: int = 3
    length: int = 15
    """images in a list"""

    def draw(self) -> list[Path]:
        """The files that were written."""
        store = Store(self.request.store)
        looked, dataset = networks(CATALOGUES["figure6"], self.request)
        queries = some_queries(dataset, self.images)
        lists = {
            one.label: ranked_lists(
                store,
                one.run_ids[0],
                dataset,
                queries,
                self.length,
                device=self.run_options.device,
                progress=self.run_options.progress,
            )
            for one in looked
        }
        _, height, width = load_run(store, looked[0].run_ids[0])
        stem = (self.out or self.request.store / "figures") / file_name("figure6", self.request)
        title = f"Figure 6: the {self.length} nearest, {where_trained(looked[0], dataset, self.request)}"
        return draw_lists(lists, dataset, (height, width), title, stem)


def some_queries(dataset: Dataset, images: int) -> list[int]:
    """As many queries of a set as a picture shows."""
    if images < 1:
        raise UserError(f"--images must be at least 1, got {images}")
    return spread_queries(dataset, images)


def where_trained(looked: Looked, dataset: Dataset, request: Request) -> str:
    """Data, initial weights and profile of a picture's networks, for its title."""
    return f"{dataset.name} ({dataset.layout}), {looked.group}, profile {request.profile}"


@dataclass(frozen=True)
class Searches:
    """How the searches of a table went, and what they found beside the paper's genotype."""

    name: Annotated[str, tyro.conf.Positional] = "table1"
    """table that searches: table1, figure5a, figure5b, discrepancies"""
    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)
    out: Path | None = None
    """folder for the files; by default figures/ in the store"""

    def __call__(self) -> int:
        """Draw the trajectories of each search and one diagram of all genotypes."""
        print("written: " + ", ".join(map(str, self.draw())))
        return 0

    def draw(self) -> list[Path]:
        """The files that were written."""
        store = Store(self.request.store)
        found = searches(find_catalogue(self.name), self.request)
        stem = (self.out or self.request.store / "figures") / file_name(self.name, self.request)
        genotypes = {PAPER: SEARCHED}
        written: list[Path] = []
        for (row, seed), record in found.items():
            label = f"{row}, seed {seed}"
            genotypes[label] = str(record["genotype"])
            if not (store.run_folder(str(record.name)) / "alphas.csv").exists():
                print(f"{label}: no trajectory, as it has no architecture parameters")
                continue
            title = f"{label}: weights of the operations, {record['source']}, profile {self.request.profile}"
            part = re.sub(r"[^\w]+", "-", label.lower())
            written += draw_trajectory(
                trajectory(store, str(record.name)), title, stem.with_name(f"{stem.name}-alphas-{part}")
            )
        title = f"Genotypes on {next(iter(found.values()))['source']}, profile {self.request.profile}; "
        title += "dot: as in the paper (3 of 12 by chance); dotted: down-sampling"
        written += draw_genotypes(genotypes, title, stem.with_name(f"{stem.name}-genotypes"))
        return written


@dataclass(frozen=True)
class Factors:
    """Accuracy by occlusion, view change and light, for runs that were ranked on the rendered world."""

    name: Annotated[str, tyro.conf.Positional]
    """table, such as table2 or calibration"""
    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)
    out: Path | None = None
    """folder for the files; by default tables/ and figures/ in the store"""

    def __call__(self) -> int:
        """Build, print, draw and write it."""
        data = by_factor(find_catalogue(self.name), self.request)
        name = f"{file_name(self.name, self.request)}-factors"
        written = write_factors(data, (self.out or self.request.store / "tables") / name) + self.draw()
        print(as_markdown(data))
        print("written: " + ", ".join(map(str, written)))
        return 0

    def draw(self) -> list[Path]:
        """The files of the figures, one for each kind of initial weights."""
        data = by_factor(find_catalogue(self.name), self.request)
        stem = (self.out or self.request.store / "figures") / f"{file_name(self.name, self.request)}-factors-mAP"
        written: list[Path] = []
        for group, part, one in by_group(data, stem):
            title = (
                f"mAP by factor of the query, {group}, profile {self.request.profile}, {self.request.repetitions}; "
                "bars: 95 % bootstrap over identities, n: queries"
            )
            written += draw_factors(part, title, one)
        return written


@dataclass(frozen=True)
class Costs:
    """Accuracy against latency and parameters, and how near networks come to what the machine can do."""

    name: Annotated[str, tyro.conf.Positional] = "table2"
    """table that the accuracy comes from"""
    latency: Path = Path("results/bench/latency.csv")
    """file of python -m bench latency"""
    column: str = "M"
    """of the table: M, MS, VR, ..."""
    form: str = "deployed"
    """whose latency: eager, channels_last, deployed, ..."""
    batch: int = 32
    """at this batch size"""
    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)
    out: Path | None = None
    """folder for the files; by default figures/ in the store"""

    def __call__(self) -> int:
        """Draw and write."""
        latencies, environment = read_latencies(self.latency)
        folder = self.out or self.request.store / "figures"
        written = draw_roofline(latencies, environment, folder / "roofline")
        data = accuracy_data(latencies, find_catalogue(self.name), self.request, self.column, self.form, self.batch)
        size = f"{latencies['height'].iloc[0]}x{latencies['width'].iloc[0]}"
        title = f"{self.column}, profile {self.request.profile}, against {self.form} at batch {self.batch} and {size}"
        written += draw_accuracy(data, title, folder / f"{file_name(self.name, self.request)}-cost")
        print("written: " + ", ".join(map(str, written)))
        return 0


@dataclass(frozen=True)
class Claims:
    """What the records say of the paper's statements. Status 1 if one of them fails."""

    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)
    latency: Path = Path("results/bench/latency.csv")
    """file of python -m bench latency, for the statements about speed; used if it is there"""
    strict: bool = False
    """status 1 as well if one is undecided or was not run"""
    out: Path | None = None
    """folder for the files; by default tables/ in the store"""

    def __call__(self) -> int:
        """Judge, print and write."""
        self.request.check()
        latencies = read_latencies(self.latency)[0] if self.latency.exists() else pd.DataFrame()
        verdicts = judge(self.request, latencies)
        counts = Counter(verdict.status for verdict in verdicts)
        told = ", ".join(f"{counts[status]} {status}" for status in ("holds", "fails", "undecided", "not run"))
        data = "the rendered world" if self.request.rendered else str(self.request.root)
        title = f"{len(verdicts)} claims, profile {self.request.profile} on {data}, {self.request.repetitions}: {told}"
        stem = (self.out or self.request.store / "tables") / file_name("claims", self.request)
        write_text(stem.with_suffix(".md"), claims_markdown(verdicts, title))
        write_text(stem.with_suffix(".csv"), claims_frame(verdicts).to_csv(index=False))
        for verdict in verdicts:
            print(f"{verdict.status:<9}  {verdict.claim.statement} ({verdict.claim.source})")
            for outcome in verdict.outcomes:
                print(f"             {outcome.told}")
        print(f"{title}\nwritten: {stem}.md, {stem}.csv")
        bad = counts["fails"] + (counts["undecided"] + counts["not run"] if self.strict else 0)
        return 1 if bad else 0


@dataclass(frozen=True)
class Build:
    """Build the report, one HTML file that works offline, from whatever the store holds."""

    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)
    latency: Path = Path("results/bench/latency.csv")
    """file of python -m bench latency; throughput, memory and retrieval are looked for beside it"""
    queries: int = 8
    """of each set in the browser of ranked lists"""
    device: str = "auto"
    """that embeds images for the ranked lists, the first time: cpu, cuda, cuda:N, or auto"""
    out: Path | None = None
    """folder for index.html with its figures and tables; by default report/ in the store"""

    def __call__(self) -> int:
        """Build it. What cannot be made is named on the page, with the command that makes it."""
        request, out = self.request, self.out or self.request.store / "report"
        request.check()
        if self.queries < 1:
            raise UserError(f"--queries must be at least 1, got {self.queries}")
        latencies, environment = read_latencies(self.latency) if self.latency.exists() else (pd.DataFrame(), {})
        missing: list[page.Missing] = []
        built = page.build_tables(request, bar(iterable=CATALOGUES.values(), desc="tables"))
        for name, table in built.items():
            if isinstance(table, tables.Table):
                write_table(table, out / "tables" / file_name(name, request))
        verdicts = judge(request, latencies)
        drawn = self.draw(built, latencies, environment, out / "figures", missing)
        measured = self.measured(missing)
        ranked: page.Data = {"sets": [], "thumbnails": []}
        table2 = built["table2"]
        if isinstance(table2, tables.Table) and (steps := page.ranked_steps(table2)):
            shown = bar(iterable=steps, desc="ranked lists")
            ranked, gaps = page.ranked_data(shown, request, self.queries, self.device)
            missing += gaps
        else:
            missing.append(page.Missing("ranked lists", "no trained network", page.run_command("table2", request)))
        datasets: list[page.Data] = []
        try:
            names = request.available_datasets()
        except UserError as error:
            missing.append(page.Missing("contact sheets", str(error), page.run_command("table2", request)))
            names = ()
        sheets = page.dataset_entries(names, request, out / "sheets")
        for entry in bar(iterable=sheets, desc="contact sheets", total=len(names)):
            if isinstance(entry, page.Missing):
                missing.append(entry)
            else:
                datasets.append(entry)
        machine = str(environment.get("cpu" if environment.get("device") == "cpu" else "device", ""))
        context = page.gather(
            request,
            verdicts,
            built,
            drawn,
            missing,
            latencies,
            measured,
            ranked,
            datasets,
            machine,
            self.bench("latency"),
        )
        page.write_page(context, out / "index.html")
        size = (out / "index.html").stat().st_size / 2**20
        told = f", {len(context['missing'])} things missing, named at its end" if context["missing"] else ""
        print(f"written: {out / 'index.html'} ({size:.1f} MiB{told}), {out / 'tables'}, {out / 'figures'}")
        return 0

    def draw(
        self,
        built: Mapping[str, tables.Table | str],
        latencies: pd.DataFrame,
        environment: dict[str, object],
        folder: Path,
        missing: list[page.Missing],
    ) -> list[page.Figure]:
        """Every figure that the store and the latencies allow; what cannot be drawn goes to `missing`."""
        request = self.request
        drawn: list[page.Figure] = []

        def attempt(title: str, command: str, make: Callable[[], list[Path]]) -> None:
            try:
                pictures = [path for path in make() if path.suffix == ".png"]
            except UserError as error:
                missing.append(page.Missing(title, str(error), command))
            else:
                drawn.extend(page.Figure(path.with_suffix(""), title) for path in pictures)

        ablations = {
            name: table
            for name, table in built.items()
            if isinstance(table, tables.Table) and CATALOGUES[name].baseline
        }
        for name, table in bar(iterable=ablations.items(), desc="figures"):
            attempt(
                table.title,
                page.run_command(name, request),
                partial(draw_ablation, CATALOGUES[name], request, table, folder),
            )
        for name, picture in (
            ("figure1", Figure1(request, out=folder)),
            ("figure4", Figure4(request, out=folder)),
            ("figure6", Figure6(request, out=folder)),
        ):
            attempt(CATALOGUES[name].title, page.run_command(name, request), picture.draw)
        for name in ("table1", "figure5a"):
            title = f"What the searches of {name} found, and how"
            attempt(title, page.run_command(name, request), Searches(name, request, folder).draw)
        attempt("Table 2 while it trained", page.run_command("table2", request), Curves("table2", request, folder).draw)
        if request.rendered:
            title = "Table 2 by factor of the query"
            attempt(title, page.run_command("table2", request), Factors("table2", request, folder).draw)
        stem = folder / file_name("table2", request)
        if latencies.empty:
            why = f"{self.latency} does not exist"
            missing.append(page.Missing("accuracy against latency, and the roofline", why, self.bench("latency")))
            return drawn
        attempt(
            "Roofline of the deployed networks",
            self.bench("latency"),
            lambda: draw_roofline(latencies, environment, folder / "roofline"),
        )
        batch = int(latencies["batch"].max())

        def cost(column: str, title: str) -> list[Path]:
            data = accuracy_data(latencies, CATALOGUES["table2"], request, column, "deployed", batch)
            return draw_accuracy(data, title, stem.with_name(f"{stem.name}-{column}-cost"))

        table2, command = built["table2"], page.run_command("table2", request)
        if isinstance(table2, tables.Table) and any(row.parameters for row in table2.rows):
            # There are results; what was timed are networks of another width.
            timed = request.models or tuple(map(request.named, NETWORKS))
            command = self.bench("latency", "--models", *timed, "--batches", str(batch))
        for column in ("M", "MS", "VR"):
            title = f"{column}: accuracy against latency, deployed, batch {batch}"
            attempt(title, command, partial(cost, column, title))
        return drawn

    def measured(self, missing: list[page.Missing]) -> dict[str, pd.DataFrame]:
        """Accuracy by difficulty, and what `python -m bench` left beside the latencies."""
        found: dict[str, pd.DataFrame] = {}
        try:
            found["difficulty"] = by_factor(CATALOGUES["table2"], self.request)
        except UserError as error:
            if self.request.rendered:
                missing.append(
                    page.Missing("accuracy by difficulty", str(error), page.run_command("table2", self.request))
                )
        for name in ("latency", "throughput", "memory", "retrieval"):
            path = self.file(name)
            if path.is_file():
                found[name] = pd.read_csv(path)
            elif name != "latency":  # that is missed with its figures
                missing.append(page.Missing(page.MEASURED[name], f"{path} does not exist", self.bench(name)))
        return found

    def file(self, name: str) -> Path:
        """Where a command of bench leaves its table."""
        return self.latency if name == "latency" else self.latency.with_name(f"{name}.csv")

    def bench(self, name: str, *words: str) -> str:
        """The command that measures."""
        return shlex.join(["python", "-m", "bench", name, *words, "--out", str(self.file(name))])


def file_name(name: str, request: Request) -> str:
    """A name that tells the profile and its changes, so that one table does not overwrite another."""
    changes = (re.sub(r"[^\w.=]+", "-", change) for change in request.recipe)
    return "-".join((name, request.profile, *changes)).replace(".", "_")


COMMANDS: dict[str, Callable[..., Callable[[], int]]] = {
    "build": Build,
    "table": Table,
    "curves": Curves,
    "figure1": Figure1,
    "figure4": Figure4,
    "figure6": Figure6,
    "searches": Searches,
    "factors": Factors,
    "costs": Costs,
    "claims": Claims,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 2 for an error that the user can mend."""
    try:
        command: Callable[[], int] = tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="python -m reports", description="Tables and figures from finished runs.", args=args
        )
        with file_errors():
            return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; what was embedded is kept, and the same command goes on from there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
