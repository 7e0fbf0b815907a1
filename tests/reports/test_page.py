"""The report's data and its HTML: nothing lost on the way, nothing from a file taken for markup."""

import base64
import html.parser
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
import pytest

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.store import Store
from ablations.engine.sweep import summary_path
from ablations.studies import STUDIES
from msinet.data import load_dataset
from msinet.data.decoding import decode
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe
from reports.__main__ import main
from reports.claims import CLAIMS, Claim, Measurement
from reports.drawing import add_title, write_figure
from reports.layout import marked
from reports.page import figures, ranked, runs, summary
from reports.page.build import build as build_page
from reports.page.build import render
from reports.page.claims import claim_line, claims
from reports.page.report import Missing, Part, Report
from reports.page.tables import file_panel, table_panel, tables
from reports.results import Results, nearby
from reports.tables import Column, Table, TableCell
from reports.verdicts import Outcome, Verdict

#: What somebody might put into a file, an option or a log.
HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">\u2028<!--'


class Elements(html.parser.HTMLParser):
    """Collects start tags and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = (dict(attrs).get("id") or "main") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self.inside = None if tag == "script" else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside is not None:
            self.scripts[self.inside] = self.scripts.get(self.inside, "") + data


def build(request: Request, out: Path, *more: str) -> Elements:
    """The page that the command builds, read as a browser would."""
    latency = out / "none" / "latency.csv"
    words = ["build", *request.as_args(), "--out", str(out), "--latency", str(latency), "--device", "cpu", *more]
    assert main(words) == 0
    return Elements((out / "index.html").read_text(encoding="utf-8"))


MARKET, MSMT, ACROSS = Column("market1501", "market1501"), Column("msmt17", "msmt17"), Column("msmt17", "market1501")


def report(request: Request, out: Path, latency: Path | None = None, queries: int = 3) -> Report:
    options = RunOptions(device="cpu", progress=False)
    return Report(Results(request), latency or out / "none" / "latency.csv", queries, options, out)


def test_a_table_keeps_its_runs_and_its_paper_columns(tools) -> None:
    def cell(*values: float) -> TableCell:
        found = tools.hand_cell(values, planned=len(values) or 1, paper=90.0)
        return replace(found, runs=found.runs.assign(mAP=found.runs["R1"] - 10)) if values else found

    a, b = {MARKET: cell(50), MSMT: cell(40, 42)}, {MARKET: tools.hand_cell([]), MSMT: cell(30)}
    table = tools.hand_table({"A": a, "B": b})
    panel = table_panel("t", table, {"50-0", "40-0", "42-1", "30-0"})
    titles = [(c["title"], c["metrics"], c["paper"]) for c in panel["columns"]]
    assert titles[-4:] == [
        ("M", ["R1", "mAP"], False),
        ("paper", ["R1", "mAP"], True),
        ("MS", ["R1", "mAP"], False),
        ("paper", ["R1", "mAP"], True),
    ]
    (group,) = panel["groups"]
    assert group["name"] == "from scratch"
    first, second = group["rows"]
    assert [cell["runs"] for cell in first[-4:]] == [("50-0",), (), ("40-0", "42-1"), ()]
    assert [cell["values"] for cell in first[-4:]] == [[50.0, 40.0], [90.0, 90.0], [41.0, 31.0], [90.0, 90.0]]
    assert (second[-4]["text"], second[-4]["values"], second[-4]["runs"]) == ("not run", [], ())
    assert all(not cell["runs"] for row in group["rows"] for cell in row[:-4])
    costs = [c["title"] for c in panel["columns"] if c["cost"]]
    assert costs == ["params M", "paper", "GMACs"]
    assert (panel["done"], panel["planned"]) == (4, 5)
    first, _ = table_panel("t", table, {"50-0"})["groups"][0]["rows"]  # the page does not describe the other runs
    assert [cell["runs"] for cell in first[-4:]] == [("50-0",), (), (), ()]


def test_cells_of_files_are_sorted_by_their_numbers() -> None:
    frame = pd.DataFrame({"name": ["a 1", "b"], "value": [1.23456e-05, math.nan], "count": [3, 40]})
    panel = file_panel("latency", "Latency", frame)
    shown = [[(cell["text"], cell["values"]) for cell in row] for row in panel["groups"][0]["rows"]]
    assert shown == [[("a 1", []), ("1.235e-05", [1.23456e-05]), ("3", [3])], [("b", []), ("-", []), ("40", [40])]]
    assert [column["numeric"] for column in panel["columns"]] == [False, True, True]
    panel = file_panel("difficulty", "Difficulty", frame.assign(group=["no training", "from scratch"]))
    assert [(group["name"], group["rows"][0][0]["text"]) for group in panel["groups"]] == [
        ("from scratch", "b"),
        ("no training", "a 1"),  # last
    ]
    assert len(panel["columns"]) == 3  # the group is a heading


def test_best_is_what_the_table_marks(tools) -> None:
    def cells(model: str, *values: list[float]) -> dict[Column, TableCell]:
        found = [tools.hand_cell(value) for value in values]
        found = [replace(one, runs=one.runs.assign(model=model)) for one in found]
        return dict(zip((MARKET, ACROSS), found, strict=True))

    rows = {"MSINet": cells("msinet_x0_25", [40, 41], [20]), "OSNet": cells("osnet_x0_25", [30, 31], [10])}
    table = tools.hand_table(rows)
    table = replace(table, rows=marked(table.rows, tools.hand_comparisons(table)))
    ours, other = summary.glance_rows(table, {})
    assert ours["values"][3:] == [40.5, 20]
    assert ours["marks"][3:] == ["*", ""]  # a single seed has no best
    assert other["marks"][3:] == ["", ""]
    assert ours["marks"][:3] == ["", "", ""]


def test_a_best_value_shows_which_others_are_as_good(tools) -> None:
    rows = {"MSINet": tools.hand_cell([30, 50]), "OSNet": tools.hand_cell([31, 48])}
    rows = {label: replace(cell, runs=cell.runs.assign(model="osnet_x0_25")) for label, cell in rows.items()}
    table = tools.hand_table(rows)
    table = replace(table, rows=marked(table.rows, tools.hand_comparisons(table)))
    best, other = summary.glance_rows(table, {})
    assert (best["marks"][3], other["marks"][3]) == ("*", "≈")


def test_open_claims_have_the_command_that_decides_them(tmp_path: Path) -> None:
    results = Results(Request(store=tmp_path / "a b"))
    claim = next(c for c in CLAIMS if c.key == "mul-poor")
    undecided = claim_line(
        Verdict(claim, "not testable", (Outcome("one seed"),), "-", reasons=("single seed",)), results
    )
    assert undecided["commands"] == [f"python -m ablations run figure5c --seeds 3 --store '{tmp_path}/a b'"]
    assert claim_line(Verdict(claim, "holds", (), "-"), results)["commands"] == []
    slow = Verdict(claim, "not testable", (), "-", reasons=("1 of 1 trainings have not converged",))
    assert claim_line(slow, results)["commands"] == []
    measured = Claim("k", "s", "", measurement=Measurement("time", ("msinet", "osnet")))
    open_claim = claim_line(Verdict(measured, "not run", (Outcome("do this"),), "-"), results)
    assert open_claim["commands"] == ["do this"]


def test_an_empty_store_gives_a_page_that_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "cache"))
    request = Request(profile="smoke", store=tmp_path / "store")
    text = build(request, tmp_path / "report")
    copied = [a["data-copy"] for tag, a in text.tags if tag == "button" and a.get("class") == "copy"]
    for name in STUDIES:
        what = {"sweep_overlap": "sweep overlap", "sweep_alignment": "sweep alignment"}.get(name, f"run {name}")
        assert f"python -m ablations {what} --profile smoke --store {request.store}" in copied
    for name in ("latency", "throughput", "memory", "retrieval", "clustering"):
        assert f"python -m bench {name} --out {tmp_path}/report/none/{name}.csv" in copied
    assert "parts missing" in capsys.readouterr().out
    assert json.loads(text.scripts["data-runs"]) == []


def test_a_sweep_is_shown_when_it_has_run(trained: Request, tmp_path: Path) -> None:
    def table(request: Request) -> Table | str:
        return report(request, tmp_path).tables["sweep_overlap"]

    assert table(trained) == "the sweep was not run or did not finish"
    request = replace(trained, store=tmp_path)
    (tmp_path / "sweeps").mkdir()
    outcome = {"set": "market1501-heldout", "default_genotype": "", "best": {"overlap": 0.5}, "best_genotype": "N" * 12}
    for other in (replace(request, data_root=None), replace(request, data_root=tmp_path / "others")):
        summary_path(other, "overlap").write_text(json.dumps(outcome))
    assert isinstance(table(request), str)  # those are of other data
    summary_path(request, "overlap").write_text(json.dumps(outcome))
    found = table(request)
    assert isinstance(found, Table)
    assert [dict(row.factors)["choice"] for row in found.rows] == ["paper", "best"]


def test_times_of_other_widths_are_missing_with_the_command_that_measures(trained: Request, tmp_path: Path) -> None:
    latency = tmp_path / "latency.csv"

    def drawn(*models: str) -> tuple[list[str], dict[str, Missing]]:
        plain = {"form": "deployed", "precision": "fp32", "batch": 8, "height": 64, "width": 32, "p50_ms": 8.0}
        cost = {"images_per_second": 1e3, "parameters": 1e6, "macs": 1e7, "map_bytes": 4e5, "weight_bytes": 4e6}
        pd.DataFrame([{"model": model} | plain | cost for model in models]).to_csv(latency, index=False)
        machine = {"device": "cpu", "cpu": "a machine", "macs_per_second": 1e11, "bytes_per_second": 1e10}
        latency.with_suffix(".json").write_text(json.dumps(machine))
        part = figures.figures(report(replace(trained, models=()), tmp_path, latency))
        return [entry["title"] for entry in part.data["figures"]], {gap.what: gap for gap in part.missing}

    _, missing = drawn("msinet", "osnet")
    title = "M: accuracy against latency, deployed, batch 8"
    assert missing[title].command == (
        "python -m bench latency --models resnet50_x0_25 osnet_x0_25 cdnet_x0_25 msinet_x0_25 --batches 8 "
        f"--out {tmp_path}/latency.csv"
    )
    titles, missing = drawn("msinet_x0_25", "osnet_x0_25")
    assert title not in missing
    assert title in titles


@pytest.fixture(scope="module")
def built(trained: Request, tmp_path_factory: pytest.TempPathFactory) -> Elements:
    return build(trained, tmp_path_factory.mktemp("report"), "--queries", "3")


def test_the_page_needs_nothing_from_anywhere(built: Elements) -> None:
    for tag, attributes in built.tags:
        for name in ("src", "href", "action", "srcset", "poster", "data"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:", "#")) or not value, (tag, name, value)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    (policy,) = (a["content"] for tag, a in built.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert sum(tag == "script" and "type" not in a for tag, a in built.tags) == 1


def test_every_run_of_the_store_is_in_the_explorer(built: Elements, trained: Request) -> None:
    frame = Results(trained).records
    explored = {run["id"]: run for run in json.loads(built.scripts["data-runs"])}
    assert set(explored) == set(frame.index)
    rows = {a["data-runs"] for tag, a in built.tags if tag == "button" and a.get("class") == "trace run"}
    assert rows == set(frame.index)
    for run_id, run in explored.items():
        assert run["mAP"] == pytest.approx(frame.loc[run_id, "mAP"], abs=0.005)
        assert dict(run["environment"])["torch"] == frame.loc[run_id, "torch"]
        assert dict(run["configuration"])["seed"] == "0"
        assert run["log"]
        history = pd.read_csv(Store(trained.store).run_folder(run_id) / "history.csv") if run["history"] else None
        if history is not None:
            assert run["history"]["series"]["loss"] == pytest.approx(list(history["loss"]), rel=1e-3)
    assert any(run["history"] for run in explored.values())
    assert any("table2: MSINet x0.25, M" in run["used"] for run in explored.values())


def test_ranked_lists_show_the_images_of_the_files(built: Elements, trained: Request) -> None:
    lists = json.loads(built.scripts["data-ranked"])
    by_name = {one["name"]: one for one in lists["sets"]}
    assert set(by_name) == {"M", "VID"}
    for name, target in (("M", "market1501"), ("VID", "vehicleid")):
        dataset = load_dataset(target, trained.root)
        paths = {image.path.name: image.path for image in dataset.test}
        assert len(by_name[name]["queries"]) == 3
        for network in by_name[name]["networks"]:
            for query, found in zip(by_name[name]["queries"], network["lists"], strict=True):
                assert len(found["items"]) <= ranked.TOP
                distances = [item[1] for item in found["items"]]
                assert distances == sorted(distances)
                for place, _, right, identity, _, file in found["items"]:
                    assert right == (identity == query[1])
                    content = base64.b64decode(lists["thumbnails"][place].partition(",")[2])
                    with PIL.Image.open(io.BytesIO(content)) as thumbnail:
                        shown = np.asarray(thumbnail.convert("RGB"), dtype=float)
                    assert abs(shown - decode(paths[file])).mean() < 8  # JPEG twice; another image differs by more
    assert len(set(lists["thumbnails"])) == len(lists["thumbnails"])


def test_text_of_files_is_never_markup(trained: Request, tools, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    experiment = Experiment("msinet", "market1501", "market1501", Recipe(), "smoke", options=(("note", HOSTILE),))
    store.fail("f" * 12, experiment, f"Traceback\nValueError: {HOSTILE}")
    store.partial_folder("f" * 12).mkdir(parents=True)
    (store.partial_folder("f" * 12) / "log.txt").write_text(HOSTILE, encoding="utf-8")
    request = Request(profile="smoke", data_root=trained.root, datasets=("market1501",), store=store.root)
    hostile = report(request, tmp_path)
    table = replace(tools.hand_table({HOSTILE: tools.hand_cell([], planned=1)}), title=HOSTILE, notes=[HOSTILE])
    hostile.tables = {"table2": table, "table1": HOSTILE}
    hostile.verdicts = [Verdict(Claim("key", HOSTILE, HOSTILE), "fails", (Outcome(HOSTILE),), "no")]
    lists = {
        "thumbnails": ["data:,"],
        "sets": [
            {
                "name": HOSTILE,
                "about": HOSTILE,
                "queries": [[0, 1, 1, HOSTILE]],
                "networks": [
                    {
                        "name": HOSTILE,
                        "group": HOSTILE,
                        "run": HOSTILE,
                        "mAP": 1.0,
                        "lists": [{"ap": 1.0, "first": 1, "positives": 1, "items": [[0, 0.5, 1, 1, 1, HOSTILE]]}],
                    }
                ],
            }
        ],
    }
    parts = [section(hostile) for section in (summary.summary, claims, tables, figures.figures, runs.runs)]
    parts.append(Part({"ranked": lists, "top": 15, "thumbnail": 96, "datasets": []}))
    text = render(parts, [Missing(HOSTILE, HOSTILE, HOSTILE)])
    elements = Elements(text)
    assert "<script>window" not in text
    assert not any("onerror" in attributes for _, attributes in elements.tags)
    assert sum(tag == "script" for tag, _ in elements.tags) == 5
    (run,) = json.loads(elements.scripts["data-runs"])
    assert run["state"] == "failed"
    assert run["log"] == HOSTILE.replace("\u2028", "\n")
    assert HOSTILE in run["error"]
    assert HOSTILE in run["network"]
    assert json.loads(elements.scripts["data-ranked"]) == lists


def test_long_histories_and_logs_are_thinned(tmp_path: Path) -> None:
    frame = pd.DataFrame({"epoch": range(1, 5001), "steps": 3, "loss": np.linspace(5, 1, 5000), "mAP": math.nan})
    frame.to_csv(tmp_path / "history.csv", index=False)
    history = runs._partial_history(tmp_path / "history.csv")
    assert len(history["x"]) == runs.POINTS
    assert (history["x"][0], history["x"][-1], history["series"]["loss"][-1]) == (3, 15000, 1.0)
    assert set(history["series"]) == {"loss"}
    (tmp_path / "log.txt").write_text("\n".join(["x" * 10_000] * 1000), encoding="utf-8")
    assert len(runs._tail(tmp_path / "log.txt")) < (runs.LINES + 1) * (runs.CHARACTERS + 10)
    assert runs._partial_history(tmp_path / "none.csv") == {}
    (tmp_path / "cut.csv").write_text("epoch,steps,loss\n1,10,0.5\n2,\n", encoding="utf-8")
    assert runs._partial_history(tmp_path / "cut.csv") == {"x": [10], "unit": "steps", "series": {"loss": [0.5]}}
    assert runs._tail(tmp_path / "none.txt") == ""


def test_figures_of_another_profile_are_left_out(tmp_path: Path) -> None:
    for name in ("a-mini.png", "b-smoke.png", "roofline.svg", "c-mini-rows.svg", "c-mini-rows.png"):
        (tmp_path / name).write_bytes(b"<svg/>")
        if name.endswith(".png"):
            PIL.Image.new("L", (int(200 * figures.WIDE), 9)).save(tmp_path / name)
    found = figures.figure_entries({tmp_path / "c-mini-rows": "C"}, tmp_path, "mini")
    assert [figure["name"] for figure in found] == ["c-mini-rows", "a-mini", "roofline"]
    assert found[0]["title"] == "C"
    assert found[0]["picture"].startswith("data:image/svg+xml;base64,")
    assert found[1]["picture"].startswith("data:image/png;base64,")
    assert [figure["wide"] for figure in found] == [True, True, False]


def test_networks_without_training_are_not_called_scratch() -> None:
    assert runs._described({"init": "scratch"}, {"recipe.epochs": 0})["init"] == "untrained"
    assert runs._described({"init": "scratch"}, {"recipe.epochs": 90})["init"] == "scratch"


def test_one_of_several_figures_has_the_title_that_is_written_in_it(tmp_path: Path) -> None:
    written: list[Path] = []
    remark = "weights of the operations, market1501, profile mini, seed 0, and a long remark <&>"
    for label in ("TCM, overlap 0.8", "CE"):
        figure = plt.figure(figsize=(4, 3))
        add_title(figure, f"{label}: {remark}")
        assert "\n" in figure.get_suptitle()
        written += write_figure(figure, pd.DataFrame(), tmp_path / f"search-{len(written)}")
    assert list(figures.titled("T", written).values()) == [f"TCM, overlap 0.8: {remark}", f"CE: {remark}"]
    assert figures.titled("T", written[:3]) == {tmp_path / "search-0": "T"}
    for picture in tmp_path.glob("*.svg"):
        assert "<dc:title>" in picture.read_text(encoding="utf-8")


def test_paths_in_the_current_folder_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert nearby(tmp_path / "reference" / "a") == Path("reference/a")
    assert nearby(tmp_path.parent) == tmp_path.parent
    assert nearby(Path("results")) == Path("results")


def test_what_is_missing_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "cache"))
    missing = build_page(report(Request(profile="smoke", store=tmp_path / "store"), tmp_path / "report"))
    assert len({(gap.what, gap.command) for gap in missing}) == len(missing)
    assert any(gap.what.startswith("Figure 1") for gap in missing)


def test_bad_requests_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["build", "--store", str(tmp_path), "--out", str(tmp_path / "report")]
    assert main([*words, "--queries", "0"]) == 2
    assert main([*words, "--profile", "tiny"]) == 2
    assert "--queries must be at least 1" in capsys.readouterr().err
