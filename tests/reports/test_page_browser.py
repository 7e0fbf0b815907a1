"""The report in a real browser: it loads in silence, sorts, filters, shows the right images, obeys no file."""

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.store import Store
from msinet.data import load_dataset
from msinet.data.decoding import decode
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe
from reports.__main__ import main
from reports.page.ranked import THUMBNAIL
from reports.ranked import ranked_lists, spread_queries
from reports.results import Results

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install --group browser")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'
QUERIES = 3
REFERENCE = Path(__file__).parents[2] / "reference"


@pytest.fixture(scope="module")
def asked(trained: Request, tmp_path_factory: pytest.TempPathFactory) -> Request:
    """The small store with one more run, which failed and says hostile things wherever it can."""
    folder = tmp_path_factory.mktemp("hostile")
    store = Store(Path(shutil.copytree(trained.store, folder / "store")))
    experiment = Experiment("msinet", "market1501", HOSTILE, Recipe(), "smoke", options=(("note", HOSTILE),))
    store.fail("f" * 12, experiment, f"Traceback (most recent call last):\nValueError: {HOSTILE}")
    store.partial_folder("f" * 12).mkdir(parents=True)
    (store.partial_folder("f" * 12) / "log.txt").write_text(f"begun\n{HOSTILE}\n", encoding="utf-8")
    return Request(**{**vars(trained), "store": store.root})


@pytest.fixture(scope="module")
def report(asked: Request) -> Path:
    out = asked.store / "report"
    words = ["--latency", str(out / "latency.csv"), "--device", "cpu", "--queries", str(QUERIES)]
    assert main(["build", *asked.as_args(), *words]) == 0
    return out / "index.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: Any, report: Path) -> Iterator[Any]:
    """The report, open. Whatever it complains about or asks the network for fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request",
        lambda request: said.append(request.url) if not request.url.startswith(("data:", "blob:", "file:")) else None,
    )
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(report.as_uri())
    yield page
    assert said == []
    assert page.evaluate("window.hacked") is None
    context.close()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the committed reference results."""
    out = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSINET_REFERENCE", str(REFERENCE))
        assert main(["build", "--reference", "--out", str(out), "--device", "cpu"]) == 0
    return out / "index.html"


def column(tab: Any, table: str, place: int) -> list[str]:
    """Texts of a column of the visible rows."""
    return [cells[place] for _, cells in lines(tab, table)]


def lines(tab: Any, table: str) -> list[tuple[str, list[str]]]:
    """The group and the texts of each visible row."""
    found: list[tuple[str, list[str]]] = tab.locator(f"{table} tbody tr:not(.group):visible").evaluate_all(
        "rows => rows.map((row) => [row.dataset.group, [...row.cells].map((cell) => cell.innerText)])"
    )
    return found


def test_it_loads_in_silence_and_names_its_sections(tab: Any) -> None:
    assert "MSINet" in tab.title()
    for name in ("summary", "claims", "tables", "figures", "ranked", "runs", "data", "missing"):
        assert tab.locator(f"section#{name} h2, section#{name} h1").first.is_visible()
    asked = tab.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in asked if not name.startswith("data:")] == []


def test_effects_lie_where_their_numbers_say(tab: Any, published: Path) -> None:
    tab.goto(published.as_uri())
    rows = tab.locator(".effects li")
    assert rows.count() >= 3
    scales = []
    for i in range(rows.count()):
        span, dot, zero = (rows.nth(i).locator(name).bounding_box() for name in (".span", ".dot", ".zero"))
        middle = [box["x"] + box["width"] / 2 for box in (dot, zero)]
        told = re.findall(r"[+-]?[0-9.]+", rows.nth(i).locator(".text").inner_text().split("paper")[0])
        drawn = (middle[0], span["x"], span["x"] + span["width"])  # mean, low, high
        scales += [(x - middle[1], float(number)) for x, number in zip(drawn, told, strict=True)]
    slope = sum(x * y for x, y in scales) / sum(y * y for _, y in scales)  # pixels per point, by least squares
    assert slope > 0
    assert all(abs(x - slope * y) < 2 + 0.06 * slope for x, y in scales)  # the text is rounded to tenths


def test_decided_claims_lead_to_their_evidence(tab: Any, published: Path) -> None:
    tab.goto(published.as_uri())
    first = tab.locator("ul.decided a").first
    first.click()
    claim = tab.locator(first.get_attribute("href"))
    assert first.inner_text() in claim.inner_text()
    assert claim.locator("h3, summary, b").first.is_visible()


def test_tables_sort_by_either_metric_and_back(tab: Any) -> None:
    table = "#table-table2"
    head = tab.locator(f"{table} thead th", has_text="R1").first
    place = head.evaluate("node => node.cellIndex")
    before = lines(tab, table)
    groups = list(dict.fromkeys(group for group, _ in before))
    assert len(groups) > 1
    for metric in (0, 1):

        def values(texts: list[str], metric: int = metric) -> list[float]:
            return [float(text.split(" / ")[metric].rstrip("*+≈")) for text in texts if "/" in text]

        def check(*, reverse: bool) -> None:
            after = lines(tab, table)
            assert [group for group, _ in after] == [group for group, _ in before]  # a group keeps its rows
            for group in groups:
                was, now = ([cells[place] for name, cells in rows if name == group] for rows in (before, after))
                assert values(now) == sorted(values(was), reverse=reverse)
                assert "/" not in "".join(now[len(values(now)) :])  # what has no result stands last

        button = head.locator("button").nth(metric)
        button.click()
        assert head.get_attribute("aria-sort") == "descending"
        check(reverse=True)
        button.click()
        assert head.get_attribute("aria-sort") == "ascending"
        check(reverse=False)
        button.press("Enter")
        assert head.get_attribute("aria-sort") == "none"
        assert lines(tab, table) == before


def test_rows_filter_and_tables_change(tab: Any) -> None:
    tab.locator("#table-table2 .row-search").fill("OSNet scratch")
    names = column(tab, "#table-table2", 0)
    assert names
    assert tab.locator("#table-table2 .group:visible").count() == 1
    assert all("OSNet" in name for name in names)
    tab.locator("#tables .pick", has_text="Table 5").click()
    assert tab.locator("#table-table5").is_visible()
    assert not tab.locator("#table-table2").is_visible()


def test_a_cell_leads_to_its_run_and_a_run_to_its_log(tab: Any, asked: Request) -> None:
    cell = tab.locator("#table-table2 .trace").first
    run_id = cell.get_attribute("data-runs")
    cell.click()
    dialog = tab.locator("#run-dialog")
    assert dialog.is_visible()
    assert run_id in dialog.inner_text()
    tab.keyboard.press("Escape")
    assert not dialog.is_visible()
    frame = Store(asked.store).frame()
    trained = frame[frame["steps"] > 0].index[0]
    tab.locator("#run-search").fill(trained)
    assert column(tab, "#run-table", 0) == [trained]
    tab.locator(f"#run-table [data-runs='{trained}']").click()
    text = dialog.inner_text()
    assert "Environment" in text
    assert str(frame.loc[trained, "torch"]) in text
    assert f"{100 * frame.loc[trained, 'mAP']:.2f} %" in text
    log = (Store(asked.store).run_folder(trained) / "log.txt").read_text(encoding="utf-8").splitlines()
    assert log[-1][:300] in dialog.locator("pre.log").inner_text()
    assert dialog.locator(".charts svg").count() > 0


def test_runs_filter_by_state_and_model(tab: Any) -> None:
    total = tab.locator("#run-table tbody tr").count()
    tab.locator("#run-state").select_option("failed")
    assert column(tab, "#run-table", 0) == ["f" * 12]
    assert tab.locator("#run-count").inner_text() == f"1 of {total}"
    tab.locator("#run-state").select_option("")
    tab.locator("#run-model").select_option("osnet_x0_25")
    assert set(column(tab, "#run-table", 2)) == {"osnet_x0_25"}
    tab.locator("#run-table th", has_text="mAP").locator("button").click()
    values = [float(v) for v in column(tab, "#run-table", 7) if v != "–"]
    assert values == sorted(values, reverse=True)


def test_hostile_words_are_shown_and_not_obeyed(tab: Any) -> None:
    tab.locator("#run-state").select_option("failed")
    assert HOSTILE in column(tab, "#run-table", 2)[0]
    tab.locator("#run-table .trace:visible").click()
    dialog = tab.locator("#run-dialog")
    assert HOSTILE in dialog.locator("pre.error").inner_text()
    assert HOSTILE in dialog.locator("pre.log").inner_text()
    assert dialog.locator("img").count() == 0
    assert tab.evaluate("window.hacked") is None


def test_the_page_refuses_scripts_that_are_not_its_own(chromium: Any, report: Path) -> None:
    page = chromium.new_page()  # not `tab`: the browser says aloud what it refuses
    page.goto(report.as_uri())
    refused = page.evaluate("""new Promise((done) => {
      document.addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective));
      const script = document.createElement("script");
      script.textContent = "window.slipped = 1";
      document.body.append(script);
    })""")
    assert refused.startswith("script-src")
    assert page.evaluate("window.slipped") is None
    page.close()


def test_the_ranked_list_browser_shows_the_right_images(tab: Any, asked: Request) -> None:
    tab.locator("#ranked").scroll_into_view_if_needed()
    tab.locator("#ranked-query option").first.wait_for(state="attached")
    tab.locator("#ranked-set").select_option(label="M")
    tab.locator("#ranked-network").select_option(
        label="OSNet x0.25, from scratch"
        if tab.locator("#ranked-network option", has_text="OSNet x0.25, from scratch").count()
        else "OSNet x0.25"
    )
    tab.locator("#ranked-next").click()
    assert tab.locator("#ranked-queries [aria-pressed=true]").get_attribute("data-query") == "1"

    store, dataset = Store(asked.store), load_dataset("market1501", asked.root)
    run_id = tab.locator("#ranked-lists .trace").inner_text()
    assert store.frame().loc[run_id, "model"] == "osnet_x0_25"
    position = spread_queries(dataset, QUERIES)[1]
    (expected,) = ranked_lists(Results(asked), run_id, dataset, [position], 15, RunOptions(device="cpu"))
    items = tab.locator("#ranked-lists li")
    assert items.count() == 1 + len(expected.gallery)
    shown = [pixels(items.nth(i).locator("img").get_attribute("src")) for i in range(items.count())]
    files = [expected.query, *expected.gallery]
    # the nearest of all test images to what the page shows is the file that belongs there
    everything = {image.path: small(decode(image.path)) for image in dataset.test}
    for picture, image in zip(shown, files, strict=True):
        nearest = min(everything, key=lambda path: float(np.abs(everything[path] - picture).mean()))
        assert nearest == image.path
    for i, (right, distance) in enumerate(zip(expected.right, expected.distances, strict=True), 1):
        item = items.nth(i)
        assert item.get_attribute("class") == ("right" if right else "wrong")
        assert item.locator("span").inner_text() == f"{'✓' if right else '✗'} {distance:.2f}"
    tab.locator("#ranked-network").select_option(label="all")
    assert tab.locator("#ranked-lists article").count() > 1


def pixels(address: str | None) -> np.ndarray:
    assert address is not None
    with PIL.Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def small(image: np.ndarray) -> np.ndarray:
    picture = PIL.Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(picture, dtype=float)


def test_claims_filter_by_verdict_and_words(tab: Any) -> None:
    visible = tab.locator(".claims > li:visible")
    total = visible.count()
    tab.locator("#claims .chip", has_text="not run").click()
    assert set(visible.evaluate_all("nodes => nodes.map((n) => n.dataset.status)")) <= {"holds", "fails", "undecided"}
    tab.locator("#claims .chip", has_text="not run").click()
    assert visible.count() == total
    tab.locator("#claim-search").fill("alignment osnet")
    assert 0 < visible.count() < total
    texts = [text.lower() for text in visible.all_text_contents()]  # the folded evidence counts
    assert all("osnet" in text and "alignment" in text for text in texts)


def test_downloads_are_the_tables_files(tab: Any, report: Path) -> None:
    with tab.expect_download() as waiting:
        tab.locator("#table-table2 .download", has_text="LaTeX").click()
    assert waiting.value.suggested_filename == "table2.tex"
    text = Path(waiting.value.path()).read_text(encoding="utf-8")
    (written,) = (report.parent / "tables").glob("table2-*.tex")
    assert text == written.read_text(encoding="utf-8")


def test_the_theme_changes_and_is_kept(tab: Any) -> None:
    def paper() -> list[int]:
        return [
            int(v) for v in tab.evaluate("getComputedStyle(document.body).backgroundColor").strip("rgb()").split(", ")
        ]

    tab.emulate_media(color_scheme="light")
    assert min(paper()) > 200
    tab.emulate_media(color_scheme="dark")
    assert max(paper()) < 60
    tab.locator("#theme").click()
    assert min(paper()) > 200
    tab.locator("#theme").click()
    tab.emulate_media(color_scheme="light")
    assert max(paper()) < 60
    tab.reload()
    assert max(paper()) < 60
    tab.emulate_media(media="print")
    assert min(paper()) > 200


def test_drawings_are_dark_in_the_dark_theme(tab: Any) -> None:
    def shade() -> int:
        box = tab.locator(".drawing").first
        with PIL.Image.open(io.BytesIO(box.screenshot())) as image:
            return int(np.median(np.asarray(image.convert("L"))))

    tab.emulate_media(color_scheme="light")
    assert shade() > 240
    tab.emulate_media(color_scheme="dark")
    assert shade() < 50
    assert tab.locator("#data .enlarge.drawing").count() == 0  # photographs keep their colours


def test_a_wide_table_keeps_the_network_in_sight(tab: Any, published: Path) -> None:
    tab.goto(published.as_uri())
    tab.set_viewport_size({"width": 390, "height": 844})
    box, name = tab.locator("#table-table2 .scroll"), tab.locator("#table-table2 tbody th[scope=row]").first
    box.scroll_into_view_if_needed()
    tab.locator("#table-table2 .scroll.more").wait_for(state="attached")
    left = name.bounding_box()["x"]
    accuracy = tab.locator("#table-table2 tbody tr:not(.group)").first.locator("td:not(.cost)").first.bounding_box()
    assert accuracy["x"] + accuracy["width"] <= 390
    box.evaluate("node => node.scrollTo(node.scrollWidth, 0)")
    tab.locator("#table-table2 .scroll.more").wait_for(state="detached")
    assert name.bounding_box()["x"] == pytest.approx(left, abs=1)


def test_the_published_report_names_its_command_and_no_local_path(tab: Any, published: Path) -> None:
    tab.goto(published.as_uri())
    assert "python -m reports build --reference" in tab.locator("footer").inner_text()
    text = tab.locator("body").inner_text()
    assert str(REFERENCE) not in text
    assert "log" not in tab.locator("#runs").inner_text().split()
    commands = tab.locator("#missing code").all_inner_texts()
    assert commands[-1].startswith("python -m reports reference add")  # after the runs
    assert any(words.startswith("python -m ablations run table2 ") and "--seeds" in words for words in commands)
    assert tab.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_sticks_out_on_a_phone(tab: Any, width: int) -> None:
    tab.set_viewport_size({"width": width, "height": 780})
    tab.locator("#ranked").scroll_into_view_if_needed()
    tab.locator("#ranked-lists li").first.wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.locator("#run-table .trace").first.click()
    assert tab.evaluate("document.getElementById('run-dialog').scrollWidth") <= width


def test_it_can_be_used_by_keyboard(tab: Any) -> None:
    names = []
    for _ in range(12):
        tab.keyboard.press("Tab")
        names.append(tab.evaluate("document.activeElement.textContent.trim()"))
    assert names[0] == "Skip to the report"
    assert "Theme: system" in names
    unnamed = tab.locator("button, select, input").evaluate_all(
        "(all) => all.filter((n) => !(n.textContent.trim() || n.labels?.length || n.ariaLabel)).map((n) => n.outerHTML)"
    )
    assert unnamed == []
    assert tab.evaluate("[...document.images].filter((n) => !n.hasAttribute('alt')).length") == 0
    assert json.loads(tab.locator("#data-runs").inner_text())
