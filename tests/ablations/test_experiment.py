"""What a run is called: the hash of all that decides its outcome, and of nothing else."""

import hashlib
import json
from dataclasses import fields, replace
from typing import Any

import pytest

from ablations.engine.experiment import RESULTS_VERSION, Experiment
from msinet.errors import UserError
from msinet.models.registry import CARDS
from msinet.training.recipe import Recipe, Search, settings, with_settings

EXPERIMENT = Experiment("msinet", "msmt17", "market1501", Recipe(), "paper", options=(("ratio", 3),))
PRINTS = {"msmt17": "aaa", "market1501": "bbb", "veri776": "ccc", "vehicleid": "ddd"}
#: For settings that take only some values, or whose other value must fit to the rest.
OTHERS = {
    "model": "osnet",
    "optimizer": "adam",
    "init": "pretrained",
    "steps_per_epoch": 7,
    "cosine_to": 0.5,
    "options": (("ratio", 2),),
    "source": "veri776",
    "target": "vehicleid",
    "alignment": "unified",
    "alignment_grid": "partner",
    "precision": "bf16",
    "sampler": "shuffled",
    "erase_fill": "noise",
    "crop": 0.5,
    "identity_margin": 0.25,
    "over_heads": "mean",
    "mechanism": "tpe",
    "overlap": 0.5,
    "split": "fifths",
    "halves": "list",
    "memory_init": "zeros",
    "order": "alphas",
    "mid": "in",
}
#: With spatial alignment, whose settings name a run only where there is some.
ALIGNED = EXPERIMENT.aligned("separated")
SEARCH = replace(EXPERIMENT, model="supernet", options=(), recipe=Recipe(search=Search()))


def base_of(name: str) -> Experiment:
    """An experiment in which the setting has an effect."""
    if name.startswith("alignment"):
        return ALIGNED
    if name == "crop":  # it takes the place of padding
        return replace(EXPERIMENT, recipe=with_settings(EXPERIMENT.recipe, {"pad": 0}))
    return EXPERIMENT if name in settings(EXPERIMENT.recipe) else SEARCH


def other(name: str, value: Any) -> Any:
    """Another value for a setting."""
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value, 1)
    if isinstance(value, str):
        return value + "_other"
    return value / 2 if isinstance(value, float) else value + 1


def changed(level: str, name: str) -> Experiment:
    """The experiment with one setting replaced."""
    if level == "experiment":
        return replace(EXPERIMENT, **{name: other(name, getattr(EXPERIMENT, name))})
    base = base_of(name)
    recipe = with_settings(base.recipe, {name: other(name, settings(base.recipe)[name])})
    return replace(base, recipe=recipe)


#: Every setting there is, so that a new one is tested without being listed.
SETTINGS = [
    *(("experiment", f.name) for f in fields(Experiment) if f.name not in ("profile", "recipe", "genotype_from")),
    *(("recipe", name) for name in settings(SEARCH.recipe)),
]


@pytest.mark.parametrize(("level", "name"), SETTINGS)
def test_every_setting_makes_another_run(level: str, name: str) -> None:
    experiment = changed(level, name)
    base = EXPERIMENT if level == "experiment" else base_of(name)
    assert experiment.key != base.key
    assert experiment.run_id(PRINTS, None) != base.run_id(PRINTS, None)


def test_settings_without_alignment_do_not_change_the_key() -> None:
    unused = with_settings(Recipe(), {"alignment_weight": 1.0, "alignment_grid": "partner"})
    assert replace(EXPERIMENT, recipe=unused).key == EXPERIMENT.key


def test_what_found_a_genotype_is_no_part_of_its_training() -> None:
    search = replace(EXPERIMENT, model="supernet", options=())
    pending = replace(EXPERIMENT, genotype_from=search)
    assert pending.known("N" * 12) == replace(EXPERIMENT, options=(("genotype", "N" * 12), ("ratio", 3)))
    assert pending != EXPERIMENT


def test_what_waits_for_a_search_is_not_taken_for_another_run() -> None:
    plain = replace(EXPERIMENT, options=())
    searches = [replace(plain, model="supernet", seed=seed) for seed in (0, 1)]
    waiting = [replace(plain, genotype_from=search) for search in searches]
    assert len({experiment.key for experiment in (plain, *searches, *waiting)}) == 5
    assert len({experiment.run_id(PRINTS, None) for experiment in (plain, *waiting)}) == 3
    # The name of the profile does not matter to them either.
    assert replace(waiting[0], genotype_from=replace(searches[0], profile="full")).key == waiting[0].key


def test_no_two_of_these_changes_share_a_run() -> None:
    keys = {changed(level, name).key for level, name in SETTINGS}
    assert len(keys) == len(SETTINGS) > 20


def test_the_key_is_the_hash_of_the_canonical_json() -> None:
    # Written out by hand. This text, or one of the two hashes below, changes only together with RESULTS_VERSION
    # or with the canonical form; either gives every finished run of every store another name.
    canonical = (
        '{"init":"scratch","model":"msinet","options":[["ratio",3]],'
        '"recipe":{"alignment":"none","bias_lr":1.0,"cosine_to":null,"crop":0.0,"epoch_decay":1.0,"epochs":350,"erase":0.5,'
        '"erase_fill":"mean","flip":0.5,"height":256,"identities":16,"images":4,"jitter":false,"label_smoothing":0.1,'
        '"lr":0.065,"margin":0.3,"milestones":[150,225,300],"normalize_triplet":true,"optimizer":"sgd","pad":10,'
        '"precision":"fp32","sampler":"identities","soft_margin":false,"steps_per_epoch":null,"triplet":true,'
        '"version":1,"warmup":10,"weight_decay":0.0005,"width":128},"seed":0,"source":"msmt17","target":"market1501"}'
    )
    assert EXPERIMENT.key == hashlib.sha256(canonical.encode()).hexdigest()[:12] == "719099d57f95"
    with_data = f'[{RESULTS_VERSION},"719099d57f95","aaa","bbb",null]'
    run_id = hashlib.sha256(with_data.encode()).hexdigest()[:12]
    assert EXPERIMENT.run_id(PRINTS, None) == run_id == "2e6d7b08ce9d"


@pytest.mark.parametrize(("level", "name"), SETTINGS)
def test_an_experiment_comes_back_from_json(level: str, name: str) -> None:
    experiment = changed(level, name)
    again = Experiment.from_json(json.loads(json.dumps(experiment.to_json())))
    assert again == experiment
    waiting = replace(EXPERIMENT, genotype_from=SEARCH)
    assert Experiment.from_json(json.loads(json.dumps(waiting.to_json()))) == waiting


@pytest.mark.parametrize(
    "damage",
    [
        {"recipe": {}},
        {"recipe": Recipe()},
        {"recipe": {**EXPERIMENT.to_json()["recipe"], "version": 99}},
        {"recipe": {**EXPERIMENT.to_json()["recipe"], "momentum_of_later": 1}},
        {"recipe": {**EXPERIMENT.to_json()["recipe"], "optimizer": "lamb"}},
        {"options": [["ratio"]]},
        {"options": 3},
        {"added_later": True},
        {"genotype_from": {"model": "supernet"}},
    ],
)
def test_an_experiment_of_another_version_is_one_clear_error(damage: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Experiment.from_json(EXPERIMENT.to_json() | damage)


def test_the_name_of_the_profile_does_not_matter() -> None:
    renamed = replace(EXPERIMENT, profile="full")
    assert renamed != EXPERIMENT
    assert renamed.key == EXPERIMENT.key
    assert renamed.run_id(PRINTS, None) == EXPERIMENT.run_id(PRINTS, None)


def test_data_and_weights_are_part_of_the_run() -> None:
    base = EXPERIMENT.run_id(PRINTS, None)
    assert EXPERIMENT.run_id({**PRINTS, "msmt17": "x"}, None) != base  # the training set
    assert EXPERIMENT.run_id({**PRINTS, "market1501": "x"}, None) != base  # the test set
    assert EXPERIMENT.run_id({**PRINTS, "msmt17": "bbb", "market1501": "aaa"}, None) != base  # which is which
    assert EXPERIMENT.run_id({**PRINTS, "veri776": "x"}, None) == base  # a set that is not read
    assert len({EXPERIMENT.run_id(PRINTS, weights) for weights in (None, "one", "two")}) == 3


def test_a_new_results_version_makes_other_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = EXPERIMENT.run_id(PRINTS, None)
    monkeypatch.setattr("ablations.engine.experiment.RESULTS_VERSION", RESULTS_VERSION + 1)
    assert EXPERIMENT.run_id(PRINTS, None) != before


def test_a_new_revision_of_a_network_makes_other_runs_of_this_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, other = replace(EXPERIMENT, model="msinet_x0_25"), replace(EXPERIMENT, model="osnet")
    waiting = replace(EXPERIMENT, genotype_from=SEARCH)
    before = [experiment.key for experiment in (EXPERIMENT, narrow, waiting, other)]
    monkeypatch.setitem(CARDS, "msinet", replace(CARDS["msinet"], revision=1))
    after = [experiment.key for experiment in (EXPERIMENT, narrow, waiting, other)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, False, False, True]


def test_a_run_id_is_a_name_for_a_folder() -> None:
    assert len(run_id := EXPERIMENT.run_id(PRINTS, "w")) == 12
    assert set(run_id) <= set("0123456789abcdef")


def test_an_experiment_reads_as_a_sentence() -> None:
    assert str(EXPERIMENT) == "msinet ratio=3 scratch msmt17->market1501 seed 0"
    plain = replace(EXPERIMENT, source="market1501", options=(), init="pretrained", seed=2)
    assert str(plain) == "msinet pretrained market1501 seed 2"
    assert EXPERIMENT.cross_domain
    assert not plain.cross_domain
