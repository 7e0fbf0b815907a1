"""The documentation names files, functions, settings and counts that exist."""

import ast
import contextlib
import math
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import groupby, product, takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import ablations.__main__ as ablations
import bench.__main__ as bench
import reports.__main__ as reports
from ablations.engine.request import Request
from ablations.studies import STUDIES, find_study
from bench.networks import label
from msinet import cli as msinet
from msinet import losses
from msinet.data.datasets import REGISTERED
from msinet.data.layouts import cards, load_dataset
from msinet.errors import UserError
from msinet.models import registry
from msinet.training.recipe import Recipe, canonical, override, settings
from msinet.training.recipes import parse_settings, resolve, resolve_pretraining, resolve_search, resolve_unsupervised
from msinet.training.recipes.paper import METHODS

ROOT = Path(__file__).parents[1]
PACKAGES = ("msinet", "bench", "ablations", "reports", "tests")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Pages whose references to code are resolved.
REFERRING = ("docs/method.md", "docs/differences.md", "docs/protocol.md", "docs/extending.md", "CONTRIBUTING.md")
SUFFIXES = (".py", ".md", ".csv", ".toml", ".ini", ".json", ".png")
#: Networks whose epochs docs/get-started.md shows: convolutional ones and a transformer.
NETWORKS = ("msinet", "resnet50", "osnet", "cdnet", "deit_small")
#: Files that a reader of docs/extending.md writes.
EXERCISES = ("msinet/models/plain.py", "msinet/data/layouts/boats.py", "ablations/studies/margin.py")


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)


def quoted(page: str) -> list[str]:
    """Everything between single back-ticks, outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


# Names of Python


@cache
def defined(path: Path) -> dict[str, ast.stmt]:
    """The names that a module defines or imports, also those imported for type checkers only."""
    return dict(names(ast.parse(path.read_text(encoding="utf-8")).body))


def names(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Assign):
            yield from ((target.id, node) for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, ast.If):
            yield from names(node.body)


def module_file(root: Path, dotted: str) -> Path | None:
    path = root.joinpath(*dotted.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((one for one in candidates if one.is_file()), None)


def has(root: Path, path: Path, attributes: list[str]) -> bool:
    """Whether a module has a name, or that name a member; imports from other modules are followed."""
    node = defined(path).get(attributes[0])
    if isinstance(node, ast.ImportFrom) and node.module:
        source = module_file(root, node.module)
        return source is None or has(root, source, attributes)
    if isinstance(node, ast.ClassDef) and attributes[1:]:
        return attributes[1] in dict(names(node.body))
    return node is not None


def missing(root: Path, reference: str) -> bool:
    """Whether something between back-ticks reads as a reference to this repository and leads nowhere.

    References are paths (`msinet/losses.py`), names in files (`msinet/losses.py::triplet_loss`) and dotted names
    (`msinet.models.build_model`). Anything else is no reference.
    """
    reference = reference.removesuffix("()")
    path, colons, name = reference.partition("::")
    if re.search(r"\b(NAME|DIR)\b|[*<> ]", reference) or path in EXERCISES:
        return False
    if path.endswith(SUFFIXES) and (path.split("/")[0] in (*PACKAGES, "docs") or (root / path).parent == root):
        if not (root / path).is_file():
            return "/" in path or path.endswith(".py")  # history.csv is a file of a run
        return bool(colons) and not has(root, root / path, name.split("."))
    if path.endswith("/"):
        return path.split("/")[0] in (*PACKAGES, "docs") and not (root / path).is_dir()
    words = reference.split(".")
    if words[0] not in PACKAGES or len(words) < 2 or not all(word.isidentifier() for word in words):
        return False
    if module_file(root, reference):
        return False
    for split in range(len(words) - 1, 0, -1):
        if found := module_file(root, ".".join(words[:split])):
            return not has(root, found, words[split:])
    return True


@pytest.mark.parametrize("page", REFERRING)
def test_files_and_names_exist(page: str) -> None:
    found = sorted({one for one in quoted((ROOT / page).read_text(encoding="utf-8")) if missing(ROOT, one)})
    assert not found, f"{page} names what does not exist:\n" + "\n".join(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_import_what_exists(page: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    imports = [line.split() for block in blocks for line in block.splitlines() if line.startswith("from ")]
    found = [f"{words[1]}.{name.strip(',')}" for words in imports for name in words[3:]]
    wrong = [name for name in found if missing(ROOT, name)]
    assert not wrong, f"examples in {page.name} import what does not exist:\n" + "\n".join(wrong)


def test_planted_references_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "msinet").mkdir()
    (tmp_path / "msinet" / "__init__.py").write_text("from msinet.a import One\n")
    (tmp_path / "msinet" / "a.py").write_text("LIMIT = 1\n\nclass One:\n    size: int\n    def step(self): ...")
    good = ["a.py", "a.py::One.step", "a.py::LIMIT", "NAME.py", "*.py"]
    good = [f"msinet/{path}" for path in good] + ["msinet/", "msinet.a", "msinet.a.One.size", "msinet.One.step"]
    good += ["history.csv", "lr=0.1", "msinet train", "one.two"]
    assert not [one for one in good if missing(tmp_path, one)]
    bad = ["msinet/b.py", "msinet/a.py::Two", "msinet/a.py::One.go", "msinet.a.Two", "msinet.b", "msinet.One.go"]
    assert [one for one in bad if missing(tmp_path, one)] == bad


# Links


def heading_anchors(page: str) -> set[str]:
    """Anchors that GitHub gives to the headings of a page."""
    found = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def broken_links(page: Path) -> list[str]:
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in heading_anchors(target.read_text(encoding="utf-8"))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    found = broken_links(page)
    assert not found, f"broken links in {page.name}: {', '.join(found)}"


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert set(re.findall(r"^\| \[(\S+)\]\(\1\) \| .*\? \|$", index, flags=re.MULTILINE)) == pages


def test_planted_links_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# One thing, more\n")
    page = tmp_path / "a.md"
    page.write_text("[x](b.md) [x](b.md#one-thing-more) [x](https://a.b/c) ![x](b.md)\n# Here\n[x](#here)\n")
    assert not broken_links(page)
    page.write_text("[x](c.md) [x](b.md#other) [x](#there)")
    assert broken_links(page) == ["c.md", "b.md#other", "#there"]


def test_nobody_is_referred_to_a_document_that_is_not_here() -> None:
    word = re.compile(r"\bSP" + r"EC\b")
    suffixes = {*SUFFIXES, ".j2", ".js", ".css"} - {".png"}
    files = [path for name in (*PACKAGES, "docs") for path in (ROOT / name).rglob("*")]
    text = [path for path in (*files, *ROOT.iterdir()) if path.suffix in suffixes]
    assert len(text) > 100
    found = sorted(str(path.relative_to(ROOT)) for path in text if word.search(path.read_text(encoding="utf-8")))
    assert not found, "these files name it:\n" + "\n".join(found)


# Settings in docs/differences.md


def rows(page: str) -> Iterator[dict[str, str]]:
    """The rows of all tables of a page by the headings of their columns."""
    headings: list[str] = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")] if line.startswith("|") else []
        if not cells or set(line) <= set("|- "):
            headings = headings if cells else []
        elif not headings:
            headings = cells
        else:
            assert len(cells) == len(headings), line
            yield dict(zip(headings, cells, strict=True))


def words_of(cell: str) -> list[str]:
    """Settings in a cell, as `order=alphas leak=True`."""
    return [word for text in quoted(cell) if "=" in text for word in re.split(r" (?=\w+=)", text)]


def network_options() -> dict[str, list[Any]]:
    """Options of the networks' builders with their defaults, read from source."""
    found: dict[str, list[Any]] = {}
    for path in sorted((ROOT / "msinet" / "models").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any("register" in ast.unparse(one) for one in node.decorator_list):
                for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
                    if isinstance(default, ast.Constant):
                        found.setdefault(argument.arg, []).append(default.value)
    return found


def test_differences_state_defaults_and_options_that_exist() -> None:
    page = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
    recipes = [
        resolve("paper", "msmt17", "msinet").recipe,
        resolve("paper", "msmt17", "msinet", cross_domain=True).recipe,
        resolve_search("paper", "msmt17").recipe,
        resolve_pretraining("paper").recipe,
    ]
    options = network_options()
    wrong = []
    seen = 0
    for row in rows(page):
        for word in words_of(row.get("Default here", "")):
            ((name, value),) = parse_settings([word]).items()
            known = [settings(recipe)[name] for recipe in recipes if name in settings(recipe)] + options.get(name, [])
            wrong += [] if value in known else [f"{word} is no default"]
            seen += 1
        for word in words_of(row.get("Other behaviour", "")):
            ((name, value),) = parse_settings([word]).items()
            fitting = [recipe for recipe in recipes if name in settings(recipe)]
            if fitting:
                override(fitting[0], {name: value} | ({"overlap": 1.0} if word == "mechanism=ce" else {}))
            elif name not in options:
                wrong.append(f"{word} is no setting")
            seen += 1
        wrong += [f"{name} is no study" for name in re.findall(r"\w+", row.get("Study", "")) if name not in STUDIES]
    assert seen > 40
    assert not wrong, "\n".join(wrong)


# Counts in docs/protocol.md


def test_published_counts_are_those_of_the_cards() -> None:
    table = {row["Name"].strip("`"): row for row in rows((ROOT / "docs" / "protocol.md").read_text()) if "Train" in row}
    expected = {}
    for card in cards():
        sizes = {split.capitalize(): " / ".join(f"{n:,}" for n in counts) for split, counts in card.expected.items()}
        expected[card.name] = {"Short": card.short, **sizes}
    assert {name: {key: row[key] for key in expected[name]} for name, row in table.items()} == expected


# Numbers that follow from settings and records


def test_the_epochs_of_the_profiles_are_those_of_the_recipes() -> None:
    page = (ROOT / "docs" / "get-started.md").read_text(encoding="utf-8")
    table = {row["epochs"]: row for row in rows(page) if "epochs" in row}
    for profile in ("full", "paper"):
        inside, across = (
            {name: resolve(profile, "msmt17", name, cross_domain=cross).recipe.schedule.epochs for name in NETWORKS}
            for cross in (False, True)
        )
        expected = {
            "convolutional networks; across data sets": f"{inside['msinet']}; {across['msinet']}",
            "searches": str(resolve_search(profile, "msmt17").recipe.schedule.epochs),
            "transformers; across data sets": f"{inside['deit_small']}; {across['deit_small']}",
            "pre-training": str(resolve_pretraining(profile).recipe.schedule.epochs),
        }
        assert {name: table[name][f"`{profile}`"] for name in expected} == expected
        assert all(inside[name] == inside["msinet"] for name in ("resnet50", "osnet", "cdnet"))
        methods = [resolve_unsupervised(profile, method, "market1501").recipe.schedule.epochs for method in METHODS]
        shown = table["methods without labels"][f"`{profile}`"]
        assert shown == " to ".join(str(number) for number in dict.fromkeys((min(methods), max(methods))))


def test_the_number_of_smoke_experiments() -> None:
    request = Request(profile="smoke")
    cells = find_study("table2").cells(request, request.default_datasets())
    number = f"{len({cell.experiment.key for cell in cells})} experiments"
    for page in ("docs/get-started.md", "CONTRIBUTING.md"):
        assert number in (ROOT / page).read_text(encoding="utf-8")


def test_differences_of_warm_ups_are_those_of_the_record() -> None:
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    record = pd.read_csv(ROOT / "reference" / "epyc-2-cores" / "tuning" / "warmup.csv")
    final = 100 * record.groupby(["warmup", "model"])["mAP"].last()
    for other, name in (("cdnet", "CDNet"), ("osnet", "OSNet")):
        found = [f"{final[warmup, 'msinet'] - final[warmup, other]:+.1f}" for warmup in (15, 5)]
        assert f"| MSINet minus {name} | {' | '.join(found)} |\n" in page
    orders = [list(final[warmup].sort_values().index) for warmup in (15, 5)]
    assert orders[0] == orders[1]


def test_the_noise_of_latencies_is_that_of_the_records() -> None:
    folder, light = ROOT / "reference" / "epyc-2-cores" / "bench", ["msinet", "osnet", "cdnet"]
    page = " ".join((ROOT / "docs" / "cost.md").read_text(encoding="utf-8").split()).replace(" %", "%")
    record = pd.read_csv(folder / "latency.csv")
    times = record.pivot_table(index=["form", "batch"], columns="model", values="p50_ms")
    ratio = np.expm1(abs(np.log(times["msinet pam=True"] / times["msinet"])))
    onnx = ratio.index.get_level_values("form") == "onnx"
    assert f"differ by up to {ratio[~onnx].max():.0%} in PyTorch and by up to {ratio[onnx].max():.0%} in ONNX" in page
    calls = record.groupby("batch")["calls"].agg(["min", "max"])
    assert f"at batch 1 are of {calls.loc[1, 'min']} to {calls.loc[1, 'max']} calls" in page
    assert f"those at batch 32 of {calls.loc[32, 'min']}." in page
    spread = ((record["ratio_high"] - record["ratio_low"]) / record["ratio"]).groupby(record["batch"]).median()
    assert f"a range of {100 * spread.min():.0f} to {100 * spread.max():.0f}% of the ratio" in page
    # Between two days
    both = [pd.read_csv(folder / f"{name}.csv").query("form == 'deployed'") for name in ("latency", "compiled")]
    one, two = (table.set_index(["model", "batch"])["ratio"] for table in both)
    change = abs(two / one - 1).dropna()
    assert f"changed by up to {change.max():.0%} ({label(change.idxmax()[0])}, batch {change.idxmax()[1]})" in page
    assert f"those of the light networks by up to {change[light].max():.0%}" in page
    # The list below the tables
    same = record[record["model"].isin(light)].groupby(["form", "batch"])["ratio_same"].agg(["min", "max"])
    for at, words in (
        (("eager", 32), "{} to {} of its time if both are eager"),
        (("deployed", 32), "{} to {} if both are deployed"),
        (("deployed", 1), "for a single image {} to {} deployed"),
    ):
        assert words.format(*(f"{value:.2f}" for value in same.loc[at])) in page
    compiled = pd.read_csv(folder / "compiled.csv").query("batch == 32")
    compiled = compiled.pivot_table(index="model", columns="form", values="p50_ms")
    gains = 100 * (1 - compiled["compiled"] / compiled["deployed"])[light]
    assert f"{gains.min():.0f} to {gains.max():.0f}% faster at batch 32, in one race" in page
    for table in (record[record["batch"] == 32], pd.read_csv(folder / "one_thread.csv")):
        fastest = table[table["model"].isin(light)].sort_values("p50_ms").groupby("model")["form"].first()
        assert set(fastest) == {"onnx"}
    rows = record[record["batch"] == 32].set_index(["model", "form"])
    deit = rows.loc[("deit_small", "eager"), "ratio"], rows.loc[("deit_small", "deployed"), "ratio_same"]
    assert "DeiT-S takes {:.2f} of ResNet50's time if both are eager at batch 32, and {:.2f} if".format(*deit) in page
    assert f"DeiT-B takes {rows.loc[('deit_base', 'eager'), 'ratio']:.1f} times as long" in page


def test_the_searches_of_the_reference_are_as_many_as_the_pages_say() -> None:
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    assert "Figure 5a and Table 1 have one search of each kind, Figure 5b two" in page
    for name, number in (("table1", 1), ("figure5a", 1), ("figure5b", 2)):
        rows = pd.read_csv(ROOT / "reference" / "epyc-2-cores" / f"{name}.csv")
        assert set(rows[rows["column"] == "search"].groupby("row")["seed"].nunique()) == {number}


def test_the_notebook_example_reads_the_reference() -> None:
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    code = page.split("### In a notebook\n")[1].split("```python\n")[1].split("```")[0]
    code = code.replace("reference/", f"{ROOT}/reference/")
    assert set(executed(code)["rows"]["model"]) >= {"msinet", "osnet", "cdnet"}


# Exercises of docs/extending.md


def example(after: str) -> str:
    """The first block of Python after a text."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert page.count(after) == 1
    return page.split(after)[1].split("```python\n")[1].split("```")[0]


def executed(code: str, **names: Any) -> dict[str, Any]:
    space = {"__name__": "exercise", **names}
    exec(compile(code, "docs/extending.md", "exec"), space)
    return space


def test_the_network_of_the_exercise_trains_and_embeds(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.all_weights()  # a network file enters its builder only when it is first imported
    monkeypatch.setattr(registry, "CARDS", dict(registry.CARDS))
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    executed(example("`msinet/models/plain.py`:\n"))
    network = registry.build_model("plain_x0_25", 5, pam=True)
    images = torch.randn(2, 3, 64, 32)
    output = network(images)
    assert [one.shape for one in output.logits] == [(2, 5), (2, 5)]
    assert output.activation.shape == (2, 8)
    assert network.eval()(images).shape == (2, 192)
    assert "plain" in [card.name for card in registry.in_study("table2")]


def test_the_data_set_of_the_exercise_loads(tmp_path: Path) -> None:
    for name in ("train/1_1_a", "train/2_1_b", "query/3_1_c", "gallery/3_1_d", "gallery/3_2_e"):
        path = tmp_path / "Boats" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    try:
        executed(example("`msinet/data/layouts/boats.py`:\n"))
        dataset = load_dataset("boats", tmp_path)
    finally:
        REGISTERED.pop("boats")
    assert {name: len(images) for name, images in dataset.splits().items()} == {"train": 2, "query": 1, "gallery": 2}
    assert [(image.identity, image.camera) for image in dataset.test] == [(3, 1), (3, 1), (3, 2)]


def test_the_loss_of_the_exercise_is_the_loop_over_pairs() -> None:
    code = example("It takes the whole batch and returns a scalar.\n")
    loss = executed(code, **vars(losses))["contrast_loss"]
    features = torch.randn(6, 4, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    units = features / features.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(6):
        scores = {j: float(units[i] @ units[j]) / 0.1 for j in range(6) if j != i}
        normaliser = math.log(sum(math.exp(score) for score in scores.values()))
        costs = [normaliser - scores[j] for j in scores if labels[j] == labels[i]]
        total += sum(costs) / max(1, len(costs)) / 6
    assert loss(features, labels).item() == pytest.approx(total)


def inserted(source: str, after: str, code: str) -> str:
    """Source code with more lines after one that occurs once."""
    assert source.count(after) == 1
    return source.replace(after, after + code)


def test_the_loss_of_the_exercise_is_a_setting_and_a_part_of_the_training() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")

    # Its setting: the three edits of recipe.py
    field, check, omitted = re.split(r"\n* *# in .*\n", example("would get another run id.\n"))[1:]
    source = (ROOT / "msinet" / "training" / "recipe.py").read_text(encoding="utf-8")
    place = re.search(r'    alignment_per_pair: .*\n    """.*"""\n', source)
    replaced = re.search(r'        at_least\(self, \{"alignment_weight".*\n', source)
    assert place is not None
    assert replaced is not None
    source = inserted(source, place[0], f"{field}\n").replace(replaced[0], f"{check}\n")
    recipes = executed(source.replace("    if losses.over_heads", f"{omitted}    if losses.over_heads"))
    for name in ("alignment_weight", "identity_margin", "contrast_weight"):
        with pytest.raises(UserError, match=name):
            recipes["Losses"](**{name: -1.0})
    recipe = recipes["Recipe"]()
    assert recipes["canonical"](recipe) == canonical(Recipe())
    recipe = recipes["with_settings"](recipe, {"contrast_weight": 0.5})
    assert recipes["canonical"](recipe)["contrast_weight"] == 0.5

    # Its use: the edit of supervised.py
    line = "parts = losses(output, labels, self.recipe)"
    assert f"::Supervised.learn`, after the line `{line}`" in page
    source = (ROOT / "msinet" / "training" / "supervised.py").read_text(encoding="utf-8")
    loss = executed(example("It takes the whole batch and returns a scalar.\n"), **vars(losses))["contrast_loss"]
    code = inserted(source, f"        {line}\n", example("also with several processes.\n"))
    network = registry.build_model("osnet_x0_25", 4).train()
    task = SimpleNamespace(
        batches=SimpleNamespace(images=lambda *inputs: inputs),
        network=network,
        recipe=recipe,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
    )
    images, labels = torch.randn(8, 3, 64, 32), torch.arange(4).repeat_interleave(2)
    parts = executed(code, contrast_loss=loss)["Supervised"].learn(task, images, labels)
    assert parts["contrast"] > 0
    total = parts["identity"] + parts["triplet"] + 0.5 * parts["contrast"]
    torch.testing.assert_close(parts["loss"], total)


def test_the_study_of_the_exercise_has_its_cells() -> None:
    study = executed(example("`ablations/studies/margin.py`:\n"))["STUDY"]
    request = Request(profile="smoke", seeds=2)
    cells = study.cells(request, ("msmt17",))
    margins = [cell.experiment.recipe.losses.margin for cell in cells]
    assert [(cell.seed, dict(cell.factors)["margin"]) for cell in cells] == list(product((0, 1), (0.1, 0.3, 0.6)))
    assert margins == [0.1, 0.3, 0.6] * 2
    assert study.label({"margin": 0.1}) == "margin 0.1"
    plain = [cell.experiment.key for cell in find_study("table2").cells(request, ("msmt17",))]
    assert [cell.experiment.key in plain for cell in cells] == [False, True, False] * 2


# Commands


def shown(page: str) -> Iterator[tuple[list[str], bool]]:
    """The words of every command in the blocks and between the back-ticks of a page, and whether it is complete.

    Between back-ticks a command may be short, as `msinet evaluate --rerank`.
    """
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    lines = [(line, True) for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line, whole in lines + [(line, False) for line in quoted(page)]:
        with contextlib.suppress(ValueError):  # a quotation mark that is an apostrophe
            words = shlex.split(line.replace("\\|", "|"), comments=True)
            for alone, command in groupby(words, lambda word: word not in ("&&", ";", "|", "&", ">", "done")):
                if alone and (found := list(command)):
                    yield found, whole


def parsed(words: list[str]) -> tuple[str, list[str]] | None:
    """The package of a command and its words; None: not a command of this project, or an incomplete one."""
    while words and ("=" in words[0] or words[0] == "torchrun"):  # environment variables
        words = words[words.index("-m") :] if words[0] == "torchrun" and "-m" in words else words[1:]
    if words[:1] == ["python"]:
        words = words[1:]
    if words[:1] == ["-m"] and words[1:2] and words[1].split(".")[0] in ("msinet", "ablations", "bench", "reports"):
        return (words[1], words[2:]) if "." not in words[1] else None
    if words[:1] == ["msinet"]:
        return "msinet", words[1:]
    if words[:2] == ["nox", "-s"] and len(words) > 2 and words[2].startswith("reproduce_"):
        name = words[2].removeprefix("reproduce_")
        return ("ablations", ["run", name, *words[4:]]) if name in STUDIES else None
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shown_commands_parse(page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    mains = {"ablations": ablations, "bench": bench, "reports": reports, "msinet": msinet}
    for module in mains.values():
        monkeypatch.setattr(module, "expanded", lambda _command: lambda: 0)
    for words, whole in shown(page.read_text(encoding="utf-8")):
        found = parsed(words)
        if found is None or not found[1] or any("|" in word or word == "..." for word in found[1]):
            continue  # several commands at once, or none
        main = mains[found[0]].run_command if found[0] == "msinet" else mains[found[0]].main
        try:
            status = main(found[1])
        except SystemExit as error:
            status = int(error.code or 0)
        said = capsys.readouterr().err
        lacks = not whole and ("Required options" in said or "Missing argument" in said) and "nrecognized" not in said
        assert status == 0 or lacks, (page.name, words, said)


@pytest.mark.parametrize("package", ["ablations", "bench", "reports", "msinet", "msinet data"])
def test_help_ends_with_an_example_that_parses(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modules = {"ablations": ablations, "bench": bench, "reports": reports}
    module = modules.get(package, msinet)
    examples = msinet.DATA_EXAMPLES if package == "msinet data" else module.EXAMPLES
    known = getattr(module, "DATA_COMMANDS" if package == "msinet data" else "COMMANDS", None)
    assert known is None or set(examples) == set(known) - {"data"}
    main = msinet.run_command if module is msinet else module.main
    before = package.split()[1:]
    for name in examples:
        with pytest.raises(SystemExit):
            main([*before, name, "--help"])
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("example: ")
        with monkeypatch.context() as patch:
            patch.setattr(module, "expanded", lambda _command: lambda: 0)
            assert main([*before, name, *shlex.split(examples[name])]) == 0, last


def test_sessions_that_are_shown_exist() -> None:
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    sessions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} | {"reproduce_figure5"}
    for page in PAGES:
        for words, _ in shown(page.read_text(encoding="utf-8")):
            if words[:2] == ["nox", "-s"]:
                names = takewhile(lambda word: word != "--" and not word.startswith("-"), words[2:])
                known = {*sessions, *STUDIES, "NAME", "...", *(f"reproduce_{name}" for name in (*STUDIES, "NAME"))}
                assert not set(names) - known, (page.name, words)


def test_a_planted_command_is_found_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nmsinet train --data-rot DIR --out OUT\n```\n")
    assert list(shown(page.read_text())) == [(["msinet", "train", "--data-rot", "DIR", "--out", "OUT"], True)]
    monkeypatch.setattr(msinet, "expanded", lambda _command: lambda: 0)
    with pytest.raises(SystemExit):
        msinet.run_command(["train", "--data-rot", "DIR", "--out", "OUT"])
