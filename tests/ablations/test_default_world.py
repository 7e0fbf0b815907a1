"""Commands without --data-root: they render their images, pre-train their networks and fill both groups."""

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from msinet.training.profiles import PRETRAINING

import ablations.runner
import ablations.world
import reports.__main__
from ablations.__main__ import main
from ablations.catalogue import PRETEXT, Request
from ablations.runner import make_plan
from ablations.store import Store
from ablations.table2 import PRETEXT_GROUP, TABLE2
from msinet.errors import DataError
from msinet.models import build_model, save_weights
from msinet.synthetic import SETS, WORLD
from msinet.training import loop
from msinet.training.run import file_hash

#: The module, whose name in the package is that of its function.
rendering = import_module("msinet.synthetic.render")
MODEL = "msinet_x0_25"
SHORT = ("epochs=1", "steps_per_epoch=2")
COLUMNS = ("M", "MS", "VR", "VID", "MS>M", "VR>VID")
FOLDERS = {name: folder for name, (folder, _) in SETS.items()}


def words(command: str, store: Path, *more: str, recipe: tuple[str, ...] = SHORT) -> list[str]:
    """The words after `python -m ablations`, without a data root."""
    run_options = ["--no-progress", "--device", "cpu"] if command == "run" else []
    return [
        command,
        "table2",
        "--profile",
        "smoke",
        "--store",
        str(store),
        "--models",
        MODEL,
        "--recipe",
        *recipe,
        *run_options,
        *more,
    ]


def asked(store: Path, **settings: Any) -> Request:
    return Request(**{"profile": "smoke", "models": (MODEL,), "recipe": SHORT, "store": store, **settings})


def table(store: Path) -> bytes:
    (file,) = (store / "tables").glob("*.csv")
    return file.read_bytes()


def never(*_args: Any, **_settings: Any) -> Any:
    raise AssertionError("this should not be done again")


@dataclass
class Finished:
    cache: Path
    store: Path
    status: int
    out: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """Table 2 of one network by one command that finds nothing. Shared: do not change it."""
    folder = tmp_path_factory.mktemp("default")
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("MSINET_CACHE", str(folder / "cache"))
        status = main(words("run", folder / "results"))
    return Finished(folder / "cache", folder / "results", status, out.getvalue())


@pytest.fixture
def there(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> Finished:
    """What `finished` left, in use."""
    monkeypatch.setenv("MSINET_CACHE", str(finished.cache))
    return finished


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# One command


def test_one_command_renders_pretrains_and_fills_both_groups(there: Finished) -> None:
    assert there.status == 0
    assert "not run" not in there.out[: there.out.index("Table 2")]
    assert there.out.endswith("16 finished\n")  # six columns twice, and the colour histogram on four test sets
    root = asked(there.store).root
    assert root.is_relative_to(there.cache / "world")
    assert {path.name for path in root.iterdir() if not path.name.startswith(".")} == set(FOLDERS.values())
    rows = list(csv.DictReader(io.StringIO(table(there.store).decode())))
    found = {(r["group"], r["column"]): r for r in rows if r["method"] == "MSINet x0.25"}
    assert set(found) == {(group, column) for group in ("from scratch", PRETEXT_GROUP) for column in COLUMNS}
    for row in found.values():
        assert 0 <= float(row["mean"]) <= 100


def test_the_pretrained_runs_started_from_the_pretext_weights(there: Finished) -> None:
    request = asked(there.store)
    weights = request.pretext_folder / f"{MODEL}.safetensors"
    assert request.weights_folder == request.pretext_folder == weights.parent
    record = json.loads(weights.with_suffix(".json").read_text())
    assert record["steps"] == 2 * 3  # the pre-training's own recipe, not the table's
    assert f"{100 * record['top1']:.1f} % of {record['val_images']} images right" in there.out
    frame = Store(there.store).frame()
    assert set(frame.loc[frame["init"] == "pretrained", "weights"]) == {file_hash(weights)}
    assert frame.loc[frame["init"] == "scratch", "weights"].isna().all()


def test_the_table_says_that_its_data_are_rendered(there: Finished) -> None:
    assert "(rendered world, not the paper's data)" in there.out
    assert f"-- {PRETEXT_GROUP} " in there.out
    assert "market1501 (Market-1501, rendered, fingerprint " in there.out


def test_a_second_run_does_nothing_and_shows_the_same(there: Finished, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    before = table(there.store)
    files = {path: path.stat().st_mtime_ns for path in asked(there.store).root.rglob("*") if path.is_file()}
    monkeypatch.setattr(rendering, "_render_set", never)
    monkeypatch.setattr(ablations.world, "pretrain", never)
    monkeypatch.setattr(ablations.runner, "run", never)
    assert main(words("run", there.store)) == 0
    assert capsys.readouterr().out.endswith("16 done\n")
    assert table(there.store) == before
    for path, changed in files.items():
        assert path.stat().st_mtime_ns == changed or path.name == ".render.lock"


def test_status_and_show_afterwards(there: Finished, capsys) -> None:
    assert main(words("status", there.store)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "16 done"
    assert main(words("show", there.store)) == 0
    shown = capsys.readouterr().out
    assert shown[: shown.index("written:")] in there.out


@pytest.mark.parametrize("more", [(), ("--datasets", "market1501")])
def test_status_before_says_how_the_world_is_made(nothing: Path, tmp_path: Path, capsys, more) -> None:
    assert main(words("status", tmp_path / "results", *more)) == 2
    assert capsys.readouterr().err == (
        "error: the world is not rendered yet; python -m ablations run makes it on first use\n"
    )
    assert not nothing.exists()
    assert not (tmp_path / "results").exists()


def test_show_before_says_that_there_is_nothing(nothing: Path, tmp_path: Path, capsys) -> None:
    assert main(words("show", tmp_path / "results")) == 2
    err = capsys.readouterr().err
    assert "holds no finished runs; run something" in err
    assert err.count("\n") == 1
    assert not nothing.exists()


def test_list_before_has_the_columns_asked_for(nothing: Path, capsys) -> None:
    for more, columns in (((), COLUMNS), (("--datasets", "veri776", "market1501"), ("VR", "M"))):
        assert main(["list", "table2", "--profile", "smoke", "--models", MODEL, *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3 * len(columns)
        assert {line.split()[-4] for line in lines} >= {"scratch", "pretrained"}
    assert not nothing.exists()


def test_results_on_the_rendered_world_are_shown_without_it(there: Finished, tmp_path: Path, monkeypatch) -> None:
    # As on another machine, which has the store alone.
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "elsewhere"))
    command = ["table", *words("show", there.store)[1:], "--out", str(tmp_path / "tables")]
    assert reports.__main__.main(command) == 0
    (file,) = (tmp_path / "tables").glob("*.csv")
    assert file.read_bytes() == table(there.store)
    assert not (tmp_path / "elsewhere").exists()


# What is asked for is what is made


def test_only_the_sets_asked_for_are_rendered_and_given_weights_win(nothing: Path, tmp_path: Path, capsys) -> None:
    folder, store = tmp_path / "weights", tmp_path / "results"
    save_weights(build_model(MODEL, 3), folder / f"{MODEL}.safetensors", {"model": MODEL})
    more = ("--datasets", "market1501", "--pretrained", str(folder))
    assert main(words("run", store, *more, recipe=("epochs=0",))) == 0
    out = capsys.readouterr().out
    assert out.endswith("3 finished\n")
    assert "-- pre-trained -" in out
    assert PRETEXT_GROUP not in out
    root = asked(store).root
    assert {path.name for path in root.iterdir() if not path.name.startswith(".")} == {FOLDERS["market1501"]}
    assert not (store / "pretrained").exists()
    # A world of some sets has their columns.
    assert main(words("status", store, "--pretrained", str(folder), recipe=("epochs=0",))) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 done"


def test_given_weights_win_over_those_of_the_pretext_set(there: Finished, tmp_path: Path) -> None:
    save_weights(build_model(MODEL, 3), tmp_path / f"{MODEL}.safetensors", {"model": MODEL})
    for settings, folder in (({}, asked(there.store).pretext_folder), ({"pretrained": tmp_path}, tmp_path)):
        plan = make_plan(TABLE2, asked(there.store, **settings))
        starts = {p.weights for p in plan.planned.values() if p.experiment.init == "pretrained"}
        assert starts == {folder / f"{MODEL}.safetensors"}


def test_the_short_default_of_mini(there: Finished, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    # Nothing is run: the plan tells. VehicleID is there for its column across sets, but has none of its own.
    monkeypatch.setattr(Request, "root", asked(there.store).root)
    for more, planned, blocked in (((), 4 + 5, 0), (("--whole",), 4 + 6, 6), (("--datasets", "vehicleid"), 1 + 1, 0)):
        command = ["status", "table2", "--models", MODEL, "--store", str(there.store / "none"), *more]
        assert main(command) == 0
        total = capsys.readouterr().out.splitlines()[-1]
        assert total == f"{planned} waiting" + (f", {blocked} blocked" if blocked else "")


def test_the_weights_folder_is_named_after_recipe_and_images(there: Finished, tmp_path: Path, monkeypatch) -> None:
    plain = asked(there.store).pretext_folder
    assert plain.parent == there.store / "pretrained"
    assert asked(tmp_path).pretext_folder == tmp_path / "pretrained" / plain.name
    assert asked(there.store, seeds=3, recipe=(), datasets=("veri776",)).pretext_folder == plain
    with monkeypatch.context() as patch:
        patch.setitem(PRETRAINING, "smoke", replace(PRETRAINING["smoke"], lr=2e-3))
        other_recipe = asked(there.store).pretext_folder
        assert asked(there.store).weights_folder is None  # nothing was pre-trained so
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="no pretext set in"):
        asked(there.store).pretext_folder  # noqa: B018
    root = asked(there.store).root
    (root / PRETEXT).mkdir(parents=True)
    world = json.loads((there.cache / "world" / root.name / PRETEXT / WORLD).read_text())
    (root / PRETEXT / WORLD).write_text(json.dumps(world))
    assert asked(there.store).pretext_folder == plain
    (root / PRETEXT / WORLD).write_text(json.dumps(world | {"fingerprint": "other"}))
    assert len({plain, other_recipe, asked(there.store).pretext_folder}) == 3


# Stops


@pytest.fixture(scope="module")
def uninterrupted(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of Market-1501 alone, from the runs of `finished`."""
    out = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setenv("MSINET_CACHE", str(finished.cache))
        command = words("show", finished.store, "--datasets", "market1501", "--out", str(out))
        assert reports.__main__.main(["table", *command[1:]]) == 0
    (file,) = out.glob("*.csv")
    return file.read_bytes()


@pytest.mark.parametrize("moment", ["rendering", "pre-training", "between"])
def test_an_interrupted_command_goes_on(
    moment: str, nothing: Path, tmp_path: Path, finished: Finished, uninterrupted: bytes, monkeypatch, capsys
) -> None:
    store = tmp_path / "results"
    command = words("run", store, "--datasets", "market1501")
    monkeypatch.setattr(rendering, "CHUNK", 8)
    # Which function stops the command at which call, after its work.
    module, name, last = {
        "rendering": (rendering, "_render_chunk", 3),
        "pre-training": (loop, "save_checkpoint", 2),
        "between": (rendering, "render", 1),
    }[moment]
    if moment == "between":
        module = ablations.world
    work, calls = getattr(module, name), 0

    def interrupted(*args: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        result = work(*args, **settings)
        if calls == last:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_SECONDS", 0)
        patch.setattr(module, name, interrupted)
        assert main(command) == 130
    assert capsys.readouterr().err == ("\ninterrupted; the state is saved and the same command goes on from there\n")
    root = asked(store).root
    assert (root / FOLDERS["market1501"]).exists() is (moment != "rendering")  # whole, or not under its name
    assert bool(list(store.glob("pretrained/*/*.partial"))) is (moment == "pre-training")
    assert not list(store.glob("pretrained/*/*.safetensors"))

    done: list[int] = []
    chunk = rendering._render_chunk

    def counted(partial: Path, number: int, *more: Any) -> int:
        done.append(number)
        return chunk(partial, number, *more)

    monkeypatch.setattr(rendering, "_render_chunk", counted)
    assert main(command) == 0
    if moment == "rendering":
        assert done[:2] == [3, 4]  # three chunks of Market-1501 were there
    else:
        assert not done
    assert table(store) == uninterrupted
    # The same images, weights and runs: their names are hashes.
    runs, before = ({path.name for path in (s / "runs").iterdir()} for s in (store, finished.store))
    assert len(runs) == 3
    assert runs < before
    ours, theirs = (sorted(s.glob("pretrained/*/*.safetensors")) for s in (store, finished.store))
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]


def test_a_damaged_world_is_one_clear_error(there: Finished, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "cache"))
    root = asked(there.store).root
    shutil.copytree(there.cache / "world" / root.name, root)
    (root / FOLDERS["market1501"] / WORLD).write_text("{")
    for command in ("run", "status"):
        assert main(words(command, there.store)) == 2
        err = capsys.readouterr().err
        assert f"{root / FOLDERS['market1501'] / WORLD} cannot be read" in err
        assert err.count("\n") == 1


# Queries


def test_queries_tell_what_made_them_hard(there: Finished) -> None:
    seen = set()
    for folder in (there.store / "runs").iterdir():
        target = json.loads((folder / "experiment.json").read_text())["target"]
        with (folder / "queries.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            assert 0 <= float(row["occlusion"]) <= 1
            assert float(row["light"]) > 0
            # A turn is known exactly where there is a match.
            assert (row["positives"] != "0") == (0 <= float(row["view_change"]) <= 180)
        seen.add(target)
    assert seen == {"market1501", "msmt17", "veri776", "vehicleid"}
