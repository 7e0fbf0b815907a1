"""The README shows the committed reference results."""

import re

import pytest

from reports import readme
from reports.statistics import Effect, Variance


def test_the_generated_parts_are_those_of_the_reference_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MSINET_REFERENCE", raising=False)
    text = readme.README.read_text(encoding="utf-8")
    assert readme.written(text) == text
    assert readme.RESULTS.read_text(encoding="utf-8") == readme.results_page()


def test_a_missing_part_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 parts called table2"):
        readme.written("# Title\n")


def test_the_readme_is_short() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert text.count("\n") <= 150
    assert sum(bool(re.search(r"\w", word)) for word in text.split()) <= 1300  # with its generated parts


def test_remarks_are_shown_without_names_of_versions() -> None:
    remarks = ("different devices: AMD EPYC, Intel(R) Xeon(R) CPU", "different code versions: a, b")
    effect = Effect(1.0, (Variance(1.0, 3),), Variance(0.0, 1), 0.0, remarks=remarks)
    assert readme._kinds([effect, effect]) == " (different code versions; different devices)"
    assert readme._kinds([]) == ""
