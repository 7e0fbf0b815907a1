"""The documents show the records of `reference/*/bench`, to the last digit. Tables of `bench gpu` can be added."""

import json
import re
import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ablations.engine.reference import ReferenceStore
from bench import clustering, cost, gpu, latency, retrieval, steps
from bench.__main__ import main
from bench.networks import label, paper_costs
from bench.tables import Rows
from reports.statistics import convergence_obstacle

ROOT = Path(__file__).parents[2]
#: Records of trainings and searches that docs/tuning.md shows.
TUNING = ROOT / "reference" / "epyc-2-cores" / "tuning"
#: Folders of `bench gpu`, whose tables share machine.json.
OF_GPU = sorted(path.parent for path in (ROOT / "reference").glob("*/bench/machine.json"))
#: Tables of single commands, each with a JSON file of its own.
RECORDS = [path for path in sorted((ROOT / "reference").glob("*/bench/*.csv")) if path.parent not in OF_GPU]
#: What is known about the machine of a table.
ABOUT = {"device", "cpu", "threads", "torch", "code", "measured", "allocator"}
RENDER: dict[str, Callable[[pd.DataFrame], str]] = {
    "cost": cost.render,
    "throughput": latency.render_throughput,
    "memory": latency.render_memory,
    "retrieval": retrieval.render,
    "clustering": clustering.render,
}
#: Pages other than cost.md.
PAGES = {"clustering": "table4.md"}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_record_is_shown_as_its_command_printed_it(path: Path) -> None:
    shown = RENDER.get(path.stem, latency.render)(pd.read_csv(path))
    page = ROOT / "docs" / PAGES.get(path.stem, "cost.md")
    assert shown.strip("\n") in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_record_tells_what_it_was_measured_on(path: Path) -> None:
    if path.stem == "cost":  # the same on every machine
        return
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert set(told) >= ABOUT
    assert "dirty" not in told["code"]


def check_tables_of_gpu(folder: Path) -> None:
    """Check that machine.json describes the device of every row, and that no failures are committed."""
    machines = json.loads((folder / "machine.json").read_text(encoding="utf-8"))
    for told in machines.values():
        assert set(told) >= ABOUT
        assert "dirty" not in told["code"]
    tables = sorted(folder.glob("*.csv"))
    assert {path.stem for path in tables} <= {"steps", "latency", "memory", "retrieval"}
    for path in tables:
        assert set(pd.read_csv(path)["device"]) <= set(machines), path


def test_tables_of_gpu_tell_what_they_were_measured_on() -> None:
    for folder in OF_GPU:
        check_tables_of_gpu(folder)


def test_the_shown_commands_contribute_what_gpu_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("gpu")
    tables = {
        "steps": (steps.COLUMNS, steps.KEYS),
        "latency": ((*latency.COLUMNS, "device"), (*latency.KEYS, "device")),
        "memory": (gpu.MEMORY_COLUMNS, gpu.MEMORY_COLUMNS[:7]),
        "retrieval": (gpu.RANKING_COLUMNS, gpu.RANKING_COLUMNS[:4]),
        "errors": (gpu.ERROR_COLUMNS, gpu.ERROR_COLUMNS[:3]),
    }
    for name, (columns, keys) in tables.items():
        Rows(out / f"{name}.csv", columns, keys).append(dict.fromkeys(columns, 1.0) | {"device": "H100"})
    (out / "machine.json").write_text(json.dumps({"H100": dict.fromkeys(ABOUT, "0.2.0")}))
    record = Path("elsewhere") / "runs" / "a" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    record.with_name("experiment.json").write_text("{}")
    gpu.pack(Path("elsewhere"), out / gpu.ARCHIVE)
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    block = page.partition("## Commit the result\n")[2].split("```sh\n")[1].split("```")[0].replace("NAME", "h100")
    bench, *files = [line for line in block.splitlines() if not line.startswith("python -m reports")]
    assert main(re.sub(r" *#.*", "", bench).split()[3:]) == 0
    subprocess.run(["sh", "-e"], input="\n".join(files), text=True, check=True)
    store = re.findall(r"reference add --store (\S+)", block)[0]
    assert (tmp_path / store / "runs" / "a" / "record.json").exists()
    contributed = tmp_path / "reference" / "h100" / "bench"
    assert {path.name for path in contributed.iterdir()} == {*(f"{name}.csv" for name in tables), "machine.json"} - {
        "errors.csv"
    }
    check_tables_of_gpu(contributed)
    (contributed / "errors.csv").write_text("part,device\nsteps,H100\n")
    with pytest.raises(AssertionError):
        check_tables_of_gpu(contributed)


def test_the_oracles_of_the_calibration_are_the_records() -> None:
    page = (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")
    rows = pd.read_csv(ROOT / "reference" / "epyc-2-cores" / "table2.csv")
    shown = {"oracle_colours": "colours", "oracle_coarse": "colours, types and patterns"}
    for model, name in shown.items():
        line = f"| oracle of {name} |"
        for target in ("market1501", "msmt17", "veri776", "vehicleid"):
            (row,) = rows[(rows["model"] == model) & (rows["target"] == target)].to_dict("records")
            values = [(100 * row[name], 100 * row[f"{name}_std_draws"]) for name in ("R1", "mAP")]
            line += f" {' / '.join(f'{mean:.1f} ± {std:.1f}' for mean, std in values)} |"
        assert f"{line}\n" in page


def test_the_table_of_long_searches_is_their_record() -> None:
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    record = pd.read_csv(TUNING / "searches.csv").set_index(["seed", "epoch"])
    for epoch in (12, 24, 48, 60, 72, 96):
        one, other = record.loc[(0, epoch)], record.loc[(1, epoch)]
        equal = sum(a == b for a, b in zip(one["operations"], other["operations"], strict=True))
        losses, entropies = (f"{one[name]:.2f}, {other[name]:.2f}" for name in ("loss", "entropy"))
        assert f"| {epoch} | {losses} | {entropies} | {equal} |\n" in page


def test_the_table_of_warm_ups_is_its_record() -> None:
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    record = pd.read_csv(TUNING / "warmup.csv").set_index(["model", "warmup"])
    for model in dict.fromkeys(record.index.get_level_values("model")):
        runs = [record.loc[(model, warmup)] for warmup in (15, 5)]
        accuracies = [f"{run['accuracy'].tail(5).mean():.3f}" for run in runs]  # 5 % of 90 epochs
        metrics = [f"{100 * run['R1'].iloc[-1]:.1f} / {100 * run['mAP'].iloc[-1]:.1f}" for run in runs]
        assert f"| {label(model)} | {' | '.join([*accuracies, *metrics])} |\n" in page


def test_the_tables_of_image_sizes_are_their_records() -> None:
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    large = pd.read_csv(TUNING / "size.csv")
    maps: dict[str, list[float]] = {}
    for name, study, row in (
        ("CDNet", "table2", "CDNet"),
        ("MSINet, 3:1 (the paper's)", "figure5d", "3:1"),
        ("MSINet, 1:1", "figure5d", "1:1"),
    ):
        small = pd.read_csv(TUNING.parent / f"{study}.csv")
        small = small[(small["row"] == row) & (small["group"] == "scratch") & (small["column"] == "MS")]
        (first,) = small[small["seed"] == 0].to_dict("records")
        curve = large[large["model"] == ("cdnet" if row == "CDNet" else "msinet")]
        curve = curve if row == "CDNet" else curve[curve["ratio"] == int(row[0])]
        runs = [first, curve.iloc[-1]]
        maps[row] = [100 * float(run["mAP"]) for run in runs]
        cells = " | ".join(f"{100 * run['R1']:.1f} / {100 * run['mAP']:.1f}" for run in runs)
        assert f"| {name} | {cells} | {curve['accuracy'].tail(5).mean():.3f} |\n" in page
    for other in ("CDNet", "1:1"):
        differences = [f"{a - b:+.1f}" for a, b in zip(maps["3:1"], maps[other], strict=True)]
        assert f"| minus {other} | {' | '.join(differences)} |\n" in page
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    words = (f"branches {maps['1:1'][1]:.1f}", f"CDNet {maps['CDNet'][1]:.1f}", f"MSINet {maps['3:1'][1]:.1f}")
    assert ", ".join(words) in " ".join(text.split())


def test_the_summary_of_costs_is_the_records() -> None:
    page = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    folder = ROOT / "reference" / "epyc-2-cores" / "bench"
    counts = pd.read_csv(folder / "cost.csv").set_index("model")
    ratios = pd.read_csv(folder / "latency.csv").query("batch == 32").set_index(["model", "form"])
    for model in ("resnet50", "osnet", "cdnet", "msinet", "deit_small"):
        parameters = [counts.loc[model, f"parameters_{what}"] for what in ("without_classifier", "at_inference")]
        cells = [f"{n:,}" for n in parameters] + [f"{counts.loc[model, 'macs'] / 1e9:.3f}"]
        for form in ("eager", "channels_last", "deployed", "onnx"):
            ratio, same = ratios.loc[(model, form), ["ratio", "ratio_same"]]
            cells.append(f"{ratio:.2f}" if form == "eager" else f"{ratio:.2f} / {same:.2f}")
        row = f"| {label(model)} | {' | '.join(cells)} | {paper_costs()[model]['relative_time']} |"
        assert row in page


def test_the_table_of_pretrainings_is_its_record() -> None:
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    for row in pd.read_csv(TUNING / "pretraining.csv").to_dict("records"):
        ranked = [f"{100 * row[f'{name}_R1']:.1f} / {100 * row[f'{name}_mAP']:.1f}" for name in ("M", "MS")]
        cells = f" | {100 * row['top1']:.1f} % | {' | '.join(ranked)} |\n"
        settings = f"| {row['steps']}, `{row['settings']}`"
        assert any(settings + chosen + cells in page for chosen in ("", ": chosen"))


def test_the_tables_of_methods_without_labels_are_their_record() -> None:
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    record = pd.read_csv(TUNING / "unsupervised.csv")
    for (method, settings), run in record.groupby(["method", "settings"], sort=False):
        last = run.iloc[-1]
        found = f"{last['R1'] * 100:.1f} / {last['mAP'] * 100:.1f}"
        if method == "mmcl":
            cells = f"{last['labels']:.1f} | {found}"
        else:
            cells = f"{last['clusters']:.0f} | {last['outliers']:.0f} | {last['nmi']:.2f} | {found}"
        name = {"clustercontrast": "ClusterContrast", "spcl": "SpCL"}.get(str(method), str(method).upper())
        assert re.search(rf"\| {name} \| `{re.escape(str(settings))}`[^|]* \| {re.escape(cells)} \|\n", page)


def test_the_gains_of_methods_without_labels_are_the_records() -> None:
    page = (ROOT / "docs" / "table4.md").read_text(encoding="utf-8")
    record = pd.read_csv(ROOT / "reference" / "epyc-2-cores" / "table4.csv").set_index(["column", "row"])["mAP"] * 100
    for column, base, words in (
        ("M", "Starting weights", "M: the initial weights"),
        ("M>MS", "Starting weights", "M>MS: the initial weights"),
        ("M>MS", "Direct transfer", "M>MS: direct transfer"),
    ):
        bases, ranges = [], []
        for suffix in ("", "+MSINet"):
            found = record[column][record[column].index.str.endswith("+MSINet") == bool(suffix)]
            methods = found.drop([f"{one}{suffix}" for one in ("Starting weights", "Direct transfer")], errors="ignore")
            gains = (methods - found[base + suffix]).sort_values()
            bases.append(f"{found[base + suffix]:.1f}")
            ends = [f"{gains.iloc[i]:+.1f} ({gains.index[i].removesuffix(suffix)})" for i in (0, -1)]
            ranges.append(" to ".join(ends))
        assert f"| {words} ({', '.join(bases)}) | {' | '.join(ranges)} |\n" in page


def test_the_table_of_convergence_is_that_of_the_reference() -> None:
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    store = ReferenceStore(ROOT / "reference" / "epyc-2-cores", "table2")
    runs = store.frame()
    runs = runs[(runs["init"] == "scratch") & (runs["source"] == runs["target"]) & (runs["steps"] > 0)]

    def after(accuracy: "pd.Series[float]", level: float) -> int:
        return 1 + int((accuracy.rolling(5).mean() > level).to_numpy().argmax())

    def shown(values: list[Any], form: str) -> str:
        ends = [f"{one:{form}}" for one in (min(values), max(values))]
        return " to ".join(dict.fromkeys(ends))

    for model in ("osnet", "msinet", "cdnet", "resnet50"):
        line = f"| {label(model)} |"
        for target in ("msmt17", "market1501"):
            mine = runs[(runs["model"] == model) & (runs["target"] == target)].sort_values("seed")
            curves = [store.read(run_id, "history.csv")["accuracy"] for run_id in mine.index]
            epochs, final = [after(one, 0.9) for one in curves], [one.tail(5).mean() for one in curves]
            line += f" {shown(epochs, 'd')} | {shown(final, '.3f')} |" if curves else " - | - |"
        assert f"{line}\n" in page
        if model == "msinet":  # on M
            assert f"| epochs until accuracy 0.5 | {' | '.join(str(after(one, 0.5)) for one in curves)} |\n" in page
            assert f"| final mAP | {' | '.join(f'{100 * one:.1f}' for one in mine['mAP'])} |\n" in page

    table5 = ReferenceStore(store.root, "table5")
    trained = [run_id for run_id, run in table5.frame().iterrows() if run["source"] == run["target"]]
    early = [run_id for run_id in trained if convergence_obstacle([table5.read(str(run_id), "history.csv")])]
    assert f"{len(early)} of the {len(trained)} trainings of Table 5 (VR, three seeds) do not pass the gate" in page


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """Times in seconds and further measurements of each benchmark of `nox -s bench`."""
    found = {}
    for name in ("suites", "ranks", "contention", "default"):  # later ones count
        path = ROOT / "reference" / "epyc-2-cores" / "bench" / f"{name}.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        assert set(record["machine_info"]) >= ABOUT - {"measured"}
        assert "dirty" not in record["machine_info"]["code"]
        for one in record["benchmarks"]:
            found[one["name"]] = {"median": one["stats"]["median"], "min": one["stats"]["min"], **one["extra_info"]}
    return found


class TestSuites:
    """The tables of `nox -s bench` in the documents are those of the committed record."""

    @staticmethod
    def check(page: str, lines: list[str]) -> None:
        """Check that these lines stand in a page, one after the other."""
        assert "\n".join(lines) in (ROOT / "docs" / page).read_text(encoding="utf-8")

    def test_training_steps(self, found: dict[str, dict[str, Any]]) -> None:
        lines = []
        for model, (height, width) in product(("msinet", "osnet", "resnet50"), ((64, 32), (256, 128))):
            plain, *others = (
                found[f"test_a_training_step_at_batch_64[{form}-{model}-{height}-{width}]"]
                for form in ("plain", "ours", "bf16", "floor")
            )
            ratios = [f"{plain['median'] / one['median']:.2f} ({plain['min'] / one['min']:.2f})" for one in others]
            lines.append(f"| {label(model)} {height}x{width} | {plain['median']:.2f} s | {' | '.join(ratios)} |")
        self.check("cost.md", lines)

    def test_alignment(self, found: dict[str, dict[str, Any]]) -> None:
        lines = []
        for height, width in ((16, 8), (16, 16)):
            ours, plain, floor = (
                found[f"test_alignment_at_batch_64[{form}-{height}-{width}]"] for form in ("ours", "plain", "floor")
            )
            cells = [f"{one['median']:.2f} s, {one['extra MiB']:,} MiB" for one in (ours, plain)]
            lines.append(f"| {height}x{width} | {' | '.join(cells)} | {floor['median']:.2f} s |")
        self.check("cost.md", lines)

    def test_search(self, found: dict[str, dict[str, Any]]) -> None:
        plain, ours, floor = (
            found[f"test_three_iterations_of_a_search_at_batch_64[{form}]"] for form in ("plain", "ours", "floor")
        )
        cells = [f"{plain['median'] / one['median']:.2f} ({plain['min'] / one['min']:.2f})" for one in (ours, floor)]
        self.check("cost.md", [f"| MSINet's supernet 64x32 | {plain['median'] / 3:.2f} s | {' | '.join(cells)} |"])

    def test_ranks(self, found: dict[str, dict[str, Any]]) -> None:
        lines = []
        for way, words in (
            ("keys", "16-bit keys (`np.argsort`, stable): chosen"),
            ("similarities", "the similarities themselves (`np.sort`)"),
            ("comparisons", "comparing each match with all similarities"),
        ):
            both = (found[f"test_ranks_of_18_matches[ranks_by_{way}-{threads}]"] for threads in (1, 2))
            times = [f"{1e9 * one['median'] / one['similarities per thread']:.1f}" for one in both]
            lines.append(f"| {words} | {' | '.join(times)} |")
        self.check("cost.md", lines)

    def test_contention(self, found: dict[str, dict[str, Any]]) -> None:
        page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
        steps = found["test_a_step_next_to_a_busy_process_contention"]
        for quiet, busy in (one for one in steps.values() if isinstance(one, list)):
            assert f" | {quiet:.2f} | {busy:.2f} | {busy / quiet:.1f} |\n" in page

    def test_default(self, found: dict[str, dict[str, Any]]) -> None:
        minutes = found["test_default"]["median"] / 60
        self.check("performance.md", [f"it took {minutes:.0f} minutes"])
        for page, words in (
            ("README.md", "# trains three networks on rendered MSMT17, two seeds: {} minutes on two cores"),
            ("docs/get-started.md", "# profile mini: {} minutes on two cores"),
            ("docs/tuning.md", "train three light networks with two seeds in {} minutes"),
        ):
            assert words.format(f"{minutes:.0f}") in (ROOT / page).read_text(encoding="utf-8")

    def test_one_table_cell(self) -> None:
        rows = pd.read_csv(ROOT / "reference" / "epyc-2-cores" / "table2.csv")
        rows = rows[(rows["group"] == "scratch") & (rows["row"] == "MSINet") & (rows["column"] == "MS")]
        minutes = rows["seconds_training"].min() / 60  # other programs ran beside the longer trainings
        assert f"(3 trainings, {minutes:.0f} minutes each on an idle core)" in (ROOT / "README.md").read_text(
            encoding="utf-8"
        )

    def test_reports(self, found: dict[str, dict[str, Any]]) -> None:
        lines = [
            f"| {words} | {found[f'test_reports_of_500_runs[{what}]']['median']:.1f} s |"
            for what, words in (
                ("report", "`python -m reports build --whole`"),
                ("claims", "`python -m reports claims`"),
                ("floor", "imports of torch, torchvision, scipy and seaborn alone"),
            )
        ]
        self.check("performance.md", lines)
