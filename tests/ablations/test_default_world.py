"""Commands without --data-root: they render their images, pre-train their networks and fill both groups."""

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import ablations.engine.attempt
import ablations.engine.prepare
from ablations.__main__ import main
from ablations.engine import reference
from ablations.engine.budget import Budget
from ablations.engine.request import PRETEXT, Request
from ablations.engine.resolve import resolve
from ablations.engine.results import results
from ablations.engine.store import Store
from ablations.engine.study import column_label, trained_groups
from ablations.studies import find_study
from msinet.data.rendered import WORLD
from msinet.errors import Busy, DataError, UserError
from msinet.models import build_model, save_weights
from msinet.models.foreign import weights_hash
from msinet.synthetic import SETS, SIZES, folder_of, render
from msinet.training import fit
from msinet.training.options import RunOptions
from msinet.training.recipes import PROFILES

#: The module, whose name in the package is that of its function.
rendering = import_module("msinet.synthetic.rendering")
MODEL = "msinet_x0_25"
SHORT = ("epochs=1", "steps_per_epoch=2")
COLUMNS = ("M", "MS", "VR", "VID", "MS>M", "VR>VID")
FOLDERS = {name: folder_of(name) for name in SETS}


Words = Callable[..., list[str]]
Outcome = Callable[[Path], dict[str, Any]]


def asked(store: Path, **settings: Any) -> Request:
    return Request(**{"profile": "smoke", "models": (MODEL,), "recipe": SHORT, "store": store, **settings})


def table(store: Path, **settings: Any) -> pd.DataFrame:
    return results(resolve(find_study("table2"), asked(store, **settings), Store(store)), Store(store))


def never(*_args: Any, **_settings: Any) -> Any:
    raise AssertionError("this should not be done again")


@dataclass
class Finished:
    cache: Path
    store: Path
    status: int
    out: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, words: Words) -> Iterator[Finished]:
    """Table 2 of one network by one command that finds nothing. Shared: do not change it."""
    folder = tmp_path_factory.mktemp("default")
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("MSINET_CACHE", str(folder / "cache"))
        status = main(words("run", folder / "results", datasets=()))
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
    assert "not run" not in there.out
    assert there.out.endswith("24 finished\n")  # six columns twice, and three untrained rows on four test sets
    root = asked(there.store).root
    assert root.is_relative_to(there.cache / "world")
    assert {path.name for path in root.iterdir() if not path.name.startswith(".")} == set(FOLDERS.values())
    frame = table(there.store)
    assert set(frame["state"]) == {"done"}
    assert frame["mAP"].between(0, 1).all()
    for _, cells in frame.groupby("group"):
        assert {column_label(a, b) for a, b in zip(cells["train"], cells["test"], strict=True)} == set(COLUMNS)
    assert set(frame["group"]) == {"untrained", "scratch", "pretext"}
    assert frame["target_layout"].str.endswith(", rendered").all()


def test_the_pretrained_runs_started_from_the_pretext_weights(there: Finished) -> None:
    request = asked(there.store)
    weights = request.pretext_folder / f"{MODEL}.safetensors"
    assert request.weights_folder == request.pretext_folder == weights.parent
    record = json.loads(weights.with_suffix(".json").read_text())
    assert record["steps"] == 2 * 3  # the pre-training's own recipe, not the table's
    assert f"{100 * record['top1']:.1f} % of {record['val_images']} images right" in there.out
    frame = Store(there.store).frame()
    assert set(frame.loc[frame["init"] == "pretrained", "weights"]) == {weights_hash(weights)}
    assert frame.loc[frame["init"] == "scratch", "weights"].isna().all()


def test_each_seed_starts_from_a_pretraining_of_its_own(
    there: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, int]] = []
    monkeypatch.setattr(
        ablations.engine.prepare,
        "pretrain",
        lambda out, pretraining, _: (
            made.append((out.name, pretraining.seed)) or {"top1": 0, "val_images": 1, "chance": 0}
        ),
    )
    request = asked(there.store, seeds=3)
    study, options = find_study("table2"), RunOptions(progress=False)
    ablations.engine.prepare.prepare(study, request, options, Budget.of(1 / 60, "cpu"))
    assert made == []  # none would end within a second
    ablations.engine.prepare.prepare(study, request, options)
    assert made == [(f"{MODEL}-seed1.safetensors", 1), (f"{MODEL}-seed2.safetensors", 2)]  # that of seed 0 is there
    cells = resolve(find_study("table2"), request, Store(there.store)).cells
    assert {(one.cell.seed, one.state) for one in cells if one.cell.group == "pretext"} == {
        (0, "done"),
        (1, "blocked"),
        (2, "blocked"),
    }
    assert asked(tmp_path, pretrained=tmp_path).weights_name(MODEL, 2) == MODEL  # one's own weights have no seed


def test_a_second_run_does_nothing(
    there: Finished, words: Words, outcome: Outcome, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    before = outcome(there.store)
    files = {path: path.stat().st_mtime_ns for path in asked(there.store).root.rglob("*") if path.is_file()}
    monkeypatch.setattr(rendering, "_render_set", never)
    monkeypatch.setattr(ablations.engine.prepare, "pretrain", never)
    monkeypatch.setattr(ablations.engine.attempt, "run", never)
    assert main(words("run", there.store, datasets=())) == 0
    assert capsys.readouterr().out.endswith("24 done\n")
    assert outcome(there.store) == before
    for path, changed in files.items():
        assert path.stat().st_mtime_ns == changed or path.name == ".render.lock"
    assert main(words("status", there.store, datasets=())) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "24 done"


@pytest.mark.parametrize("more", [(), ("--datasets", "market1501")])
def test_status_before_says_how_the_world_is_made(nothing: Path, tmp_path: Path, words: Words, capsys, more) -> None:
    assert main(words("status", tmp_path / "results", *more, datasets=())) == 2
    assert capsys.readouterr().err == (
        "error: the world is not rendered yet; python -m ablations run renders it on first use\n"
    )
    assert not nothing.exists()
    assert not (tmp_path / "results").exists()


def test_status_names_a_set_that_is_not_rendered_yet(nothing: Path, tmp_path: Path, words: Words, capsys) -> None:
    root = asked(tmp_path).root
    render(root, SIZES["smoke"], names=("market1501",), progress=False)
    capsys.readouterr()
    assert main(words("status", tmp_path / "results", "--datasets", "veri776", datasets=())) == 2
    assert capsys.readouterr().err == (
        "error: veri776 is not rendered yet; python -m ablations run renders it on first use\n"
    )
    assert {path.name for path in root.iterdir() if path.is_dir()} == {FOLDERS["market1501"]}


def test_status_shows_the_runs_that_run_will_carry_out(nothing: Path, tmp_path: Path, words: Words, capsys) -> None:
    render(asked(tmp_path).root, SIZES["smoke"], names=("msmt17",), progress=False)
    capsys.readouterr()
    assert main(["status", "table5", "--profile", "smoke", "--store", str(tmp_path / "results")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("veri776->vehicleid" in line for line in lines)
    assert not any("msmt17" in line for line in lines)
    # Tables show what the sets on disk can have.
    resolution = resolve(find_study("table5"), Request("smoke", store=tmp_path), Store(tmp_path))
    assert {one.cell.train for one in resolution.cells} == {"msmt17"}


def test_a_study_without_cells_is_one_clear_error(nothing: Path, tmp_path: Path, monkeypatch) -> None:
    request = Request("mini", store=tmp_path)
    monkeypatch.setattr(Request, "available_datasets", lambda _: ("vehicleid",))
    for name in ("table2", "table5", "figure5e"):
        with pytest.raises(UserError, match="vehicleid"):
            resolve(find_study(name), request, Store(tmp_path), load=lambda _: SimpleNamespace(fingerprint="v"))


def test_a_mistyped_data_root_is_not_replaced_by_other_results(
    there: Finished, tmp_path: Path, words: Words, capsys
) -> None:
    wrong = tmp_path / "typo"
    assert main(words("run", there.store, "--data-root", str(wrong), datasets=())) == 2
    assert f"data root {wrong} does not exist" in capsys.readouterr().err
    assert main(words("status", there.store, "--data-root", str(wrong), datasets=())) == 0
    assert capsys.readouterr().out.startswith(f"no images in {wrong}; the records of {there.store} decide\n")


def test_another_pretraining_in_progress_does_not_stop_the_other_runs(nothing, tmp_path, monkeypatch, capsys) -> None:
    def busy(*_: object, **__: object) -> None:
        raise Busy("a pre-training in W is in progress in another process")

    monkeypatch.setattr(ablations.engine.prepare, "pretrain", busy)
    request = asked(tmp_path, datasets=("market1501",))
    ablations.engine.prepare.prepare(find_study("table2"), request, RunOptions(progress=False))
    assert "is in progress in another process" in capsys.readouterr().out
    states = {one.cell.group: one.state for one in resolve(find_study("table2"), request, Store(tmp_path)).cells}
    assert (states["scratch"], states["pretext"]) == ("missing", "blocked")


def test_given_weights_add_their_group_to_short_tables() -> None:
    short, given = Request("mini"), Request("mini", pretrained=Path("weights"))
    assert trained_groups(short) == ("scratch",)
    assert trained_groups(given) == ("scratch", "pretrained")


def test_joined_sets_are_rendered_and_have_no_oracle(nothing: Path, tmp_path: Path) -> None:
    request = asked(tmp_path, datasets=("market1501+msmt17",), pretrained=tmp_path)
    study = find_study("table2")
    ablations.engine.prepare.prepare(study, request, RunOptions(progress=False))
    cells = resolve(study, request, Store(tmp_path)).cells
    assert {one.cell.experiment.model for one in cells} == {"colour_histogram", MODEL}
    assert all(one.run_id for one in cells if one.cell.experiment.init == "scratch")  # both sets are on disk


def test_list_before_has_the_columns_asked_for(nothing: Path, capsys) -> None:
    for more, columns in (((), COLUMNS), (("--datasets", "veri776", "market1501"), ("VR", "M"))):
        assert main(["list", "table2", "--profile", "smoke", "--models", MODEL, *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 5 * len(columns)
        assert {line.split()[-4] for line in lines} >= {"scratch", "pretrained"}
    assert not nothing.exists()


def test_results_on_the_rendered_world_are_known_without_it(there: Finished, tmp_path: Path, monkeypatch) -> None:
    # As on another machine, which has the store alone.
    before = table(there.store)
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "elsewhere"))
    pd.testing.assert_frame_equal(table(there.store), before)
    assert not (tmp_path / "elsewhere").exists()
    # What the store does not have is missing, with an unknown name.
    other = table(there.store, models=("osnet_x0_25",))
    assert set(other.loc[other["group"] == "scratch", "state"]) == {"missing"}
    assert set(other.loc[other["group"] == "pretext", "state"]) == {"blocked"}


def test_results_on_several_versions_of_a_world_are_one_clear_error(
    there: Finished, tmp_path: Path, monkeypatch
) -> None:
    store = tmp_path / "results"
    shutil.copytree(there.store, store)
    frame = Store(store).frame()
    (name,) = frame.index[(frame["init"] == "scratch") & (frame["model"] == MODEL) & (frame["target"] == "msmt17")]
    record = json.loads((store / "runs" / name / "record.json").read_text())
    (one,) = (
        run.experiment for run in resolve(find_study("table2"), asked(store), Store(store)).runs() if run.run_id == name
    )
    other = one.run_id({"msmt17": "another"}, None)
    (store / "runs" / name).rename(store / "runs" / other)
    record |= {"run_id": other, "source_fingerprint": "another", "target_fingerprint": "another"}
    (store / "runs" / other / "record.json").write_text(json.dumps(record))
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="holds results on several versions of msmt17; pass --data-root"):
        table(store)
    # A record of another results version has another name, and does not count.
    monkeypatch.setattr("ablations.engine.experiment.RESULTS_VERSION", 99)
    assert set(table(store).query("group == 'scratch'")["state"]) == {"missing"}


# What is asked for is what is made


def test_only_the_sets_asked_for_are_rendered_and_given_weights_win(
    nothing: Path, tmp_path: Path, words: Words, capsys
) -> None:
    folder, store = tmp_path / "weights", tmp_path / "results"
    save_weights(build_model(MODEL, 3), folder / f"{MODEL}.safetensors", {"model": MODEL})
    more = ("--pretrained", str(folder))
    assert main(words("run", store, *more, recipe=("epochs=0",))) == 0
    out = capsys.readouterr().out
    assert out.endswith("5 finished\n")
    assert set(table(store, recipe=("epochs=0",), pretrained=folder)["group"]) == {"untrained", "scratch", "pretrained"}
    root = asked(store).root
    assert {path.name for path in root.iterdir() if not path.name.startswith(".")} == {FOLDERS["market1501"]}
    assert not (store / "pretrained").exists()
    # A table has the columns of the rendered sets; status shows those that run would render as well.
    assert main(words("status", store, "--pretrained", str(folder), datasets=(), recipe=("epochs=0",))) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "5 done, 19 missing"
    assert set(table(store, recipe=("epochs=0",), pretrained=folder)["state"]) == {"done"}


def test_given_weights_win_over_those_of_the_pretext_set(there: Finished, tmp_path: Path) -> None:
    save_weights(build_model(MODEL, 3), tmp_path / f"{MODEL}.safetensors", {"model": MODEL})
    for settings, folder in (({}, asked(there.store).pretext_folder), ({"pretrained": tmp_path}, tmp_path)):
        resolution = resolve(find_study("table2"), asked(there.store, **settings), Store(there.store))
        starts = {one.weights for one in resolution.runs() if one.experiment.init == "pretrained"}
        assert starts == {folder / f"{MODEL}.safetensors"}


def test_the_short_default_of_mini(there: Finished, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    # Nothing is run. By default MS and its weights on M; on request all columns and pre-trained networks.
    monkeypatch.setattr(Request, "root", asked(there.store).root)
    for more, expected in (
        ((), "8 missing, 2 waiting"),
        (("--whole",), "20 missing, 4 waiting, 12 blocked"),
        (("--datasets", "vehicleid"), "5 missing"),
    ):
        command = ["status", "table2", "--models", MODEL, "--store", str(there.store / "none"), *more]
        assert main(command) == 0
        assert capsys.readouterr().out.splitlines()[-1] == expected


def test_status_before_anything_is_rendered_or_run(nothing: Path, tmp_path: Path, words: Words, capsys) -> None:
    (tmp_path / "runs").mkdir()  # a first run was interrupted before it was published
    assert main(words("status", tmp_path, datasets=("msmt17",))) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "5 missing"


def test_reference_results_of_other_versions_fill_nothing(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = Path(reference.__file__).parents[2] / "reference"
    store = reference.ReferenceStore(next(committed.glob("*/table2.csv")).parent, "table2")
    monkeypatch.setattr(reference, "RESULTS_VERSION", 0)
    assert store.rows
    resolution = resolve(find_study("table2"), Request(store=store.root), store)
    assert {one.state for one in resolution.runs()} <= {"missing", "waiting"}


def test_the_weights_folder_is_named_after_recipe_and_images(there: Finished, tmp_path: Path, monkeypatch) -> None:
    plain = asked(there.store).pretext_folder
    assert plain.parent == there.store / "pretrained"
    assert asked(tmp_path).pretext_folder == tmp_path / "pretrained" / plain.name
    assert asked(there.store, seeds=3, recipe=(), datasets=("veri776",)).pretext_folder == plain
    with monkeypatch.context() as patch:
        smoke = PROFILES["smoke"]
        changes = {**smoke.changes, "pretraining": {**smoke.changes.get("pretraining", {}), "lr": 2e-3}}
        patch.setitem(PROFILES, "smoke", replace(smoke, changes=changes))
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


@pytest.mark.parametrize("moment", ["rendering", "pre-training", "between"])
def test_an_interrupted_command_goes_on(
    moment: str, nothing: Path, tmp_path: Path, finished: Finished, words: Words, outcome: Outcome, monkeypatch, capsys
) -> None:
    store = tmp_path / "results"
    command = words("run", store)
    monkeypatch.setattr(rendering, "CHUNK", 8)
    # Which function stops the command at which call, after its work.
    module, name, last = {
        "rendering": (rendering, "_render_chunk", 3),
        "pre-training": (fit, "save_checkpoint", 2),
        "between": (rendering, "render", 1),
    }[moment]
    if moment == "between":
        module = ablations.engine.prepare
    work, calls = getattr(module, name), 0

    def interrupted(*args: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        result = work(*args, **settings)
        if calls == last:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(fit, "CHECKPOINT_SECONDS", 0)
        patch.setattr(module, name, interrupted)
        assert main(command) == 130
    assert capsys.readouterr().err == ("\ninterrupted; the state is saved and the same command resumes\n")
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
    # The same images, weights and runs: their names are hashes.
    runs, before = outcome(store), outcome(finished.store)
    assert len(runs) == 5
    assert runs.items() < before.items()
    ours, theirs = (sorted(s.glob("pretrained/*/*.safetensors")) for s in (store, finished.store))
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]


def test_a_damaged_world_is_one_clear_error(there: Finished, tmp_path: Path, words: Words, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "cache"))
    root = asked(there.store).root
    shutil.copytree(there.cache / "world" / root.name, root)
    (root / FOLDERS["market1501"] / WORLD).write_text("{")
    for command in ("run", "status"):
        assert main(words(command, there.store, datasets=())) == 2
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
