"""What a run is called: the hash of all that decides its outcome, and of nothing else."""

import hashlib
from dataclasses import fields, replace
from typing import Any

import pytest

from ablations.experiment import RESULTS_VERSION, Experiment
from msinet.data import Augmentation
from msinet.training.recipe import Recipe

EXPERIMENT = Experiment("msinet", "msmt17", "market1501", Recipe(), "paper", options=(("ratio", 3),))
PRINTS = {"msmt17": "aaa", "market1501": "bbb", "veri776": "ccc", "vehicleid": "ddd"}
#: For settings that take only some values.
OTHERS = {
    "optimizer": "adam",
    "init": "pretrained",
    "steps_per_epoch": 7,
    "options": (("ratio", 2),),
    "source": "veri776",
    "target": "vehicleid",
    "alignment": "unified",
    "alignment_grid": "partner",
    "precision": "bf16",
}
#: With spatial alignment, whose settings name a run only where there is some.
ALIGNED = replace(EXPERIMENT, recipe=Recipe(alignment="separated"))


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
    """The experiment with one setting replaced; of its alignment, in one that has it."""
    base = ALIGNED if name.startswith("alignment") else EXPERIMENT
    recipe = base.recipe
    if level == "experiment":
        return replace(EXPERIMENT, **{name: other(name, getattr(EXPERIMENT, name))})
    if level == "recipe":
        return replace(base, recipe=replace(recipe, **{name: other(name, getattr(recipe, name))}))
    augmentation = replace(recipe.augmentation, **{name: other(name, getattr(recipe.augmentation, name))})
    return replace(EXPERIMENT, recipe=replace(recipe, augmentation=augmentation))


#: Every setting there is, so that a new one is tested without being listed.
SETTINGS = [
    *(("experiment", f.name) for f in fields(Experiment) if f.name not in ("profile", "recipe", "genotype_from")),
    *(("recipe", f.name) for f in fields(Recipe) if f.name != "augmentation"),
    *(("augmentation", f.name) for f in fields(Augmentation)),
]


@pytest.mark.parametrize(("level", "name"), SETTINGS)
def test_every_setting_makes_another_run(level: str, name: str) -> None:
    experiment = changed(level, name)
    base = ALIGNED if name.startswith("alignment") else EXPERIMENT
    assert experiment.key != base.key
    assert experiment.run_id(PRINTS, None) != base.run_id(PRINTS, None)


def test_settings_of_an_alignment_that_is_none_name_no_run() -> None:
    # They came later than the first results, which keep their names.
    assert replace(EXPERIMENT, recipe=Recipe(alignment_weight=1.0, alignment_grid="partner")).key == EXPERIMENT.key


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
    # or with the canonical form; either makes every finished run of every store a stranger.
    canonical = (
        '{"init":"scratch","model":"msinet","options":[["ratio",3]],'
        '"recipe":{"augmentation":{"erase":0.5,"flip":0.5,"jitter":false,"pad":10},"epochs":350,"height":256,'
        '"identities":16,"images":4,"label_smoothing":0.1,"lr":0.065,"margin":0.3,"milestones":[150,225,300],'
        '"normalize_triplet":true,"optimizer":"sgd","steps_per_epoch":null,"warmup":10,"weight_decay":0.0005,'
        '"width":128},"seed":0,"source":"msmt17","target":"market1501"}'
    )
    assert EXPERIMENT.key == hashlib.sha256(canonical.encode()).hexdigest()[:12] == "a726ff266c09"
    with_data = f'[{RESULTS_VERSION},"a726ff266c09","aaa","bbb",null]'
    run_id = hashlib.sha256(with_data.encode()).hexdigest()[:12]
    assert EXPERIMENT.run_id(PRINTS, None) == run_id == "f3b4e98c7d2a"


def test_the_order_in_which_settings_are_written_does_not_matter() -> None:
    recipe = Recipe(augmentation=Augmentation(erase=0.5, pad=10), milestones=(150, 225, 300), lr=0.065)
    again = Experiment(
        options=(("ratio", 3),), profile="paper", recipe=recipe, target="market1501", source="msmt17", model="msinet"
    )
    assert again.key == EXPERIMENT.key


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
    monkeypatch.setattr("ablations.experiment.RESULTS_VERSION", RESULTS_VERSION + 1)
    assert EXPERIMENT.run_id(PRINTS, None) != before


def test_a_run_id_is_a_name_for_a_folder() -> None:
    assert len(run_id := EXPERIMENT.run_id(PRINTS, "w")) == 12
    assert set(run_id) <= set("0123456789abcdef")


def test_an_experiment_reads_as_a_sentence() -> None:
    assert str(EXPERIMENT) == "msinet ratio=3 scratch msmt17->market1501 seed 0"
    plain = replace(EXPERIMENT, source="market1501", options=(), init="pretrained", seed=2)
    assert str(plain) == "msinet pretrained market1501 seed 2"
    assert EXPERIMENT.cross_domain
    assert not plain.cross_domain
