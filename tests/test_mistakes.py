"""Every mistake of the gallery is caught, by the checks that it names and by no other."""

import re
from dataclasses import replace

from tests import mistakes
from tests.mistakes import MISTAKES

import pytest
import torch

EXHIBITS = [name for name, value in vars(mistakes).items() if isinstance(value, mistakes.Exhibit)]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small networks gain nothing from a second thread, and wait for it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def survives(check, exhibit, code) -> bool:
    try:
        check(exhibit, code)
    except AssertionError:
        return False
    return True


def catching(mistake, code) -> set:
    exhibit = mistake.exhibit
    return {check for check in exhibit.checks if not survives(check, exhibit, code)}


@pytest.mark.parametrize("name", EXHIBITS)
def test_our_code_passes_every_check(name):
    exhibit = getattr(mistakes, name)
    for check in exhibit.checks:
        check(exhibit, mistakes.code())


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.bug)
def test_each_mistake_is_caught_by_the_checks_it_names(mistake):
    assert mistake.caught_by
    assert catching(mistake, mistakes.code(mistake)) == set(mistake.caught_by)


def test_without_a_change_nothing_is_caught():
    harmless = replace(MISTAKES[0], new=MISTAKES[0].old)
    assert catching(harmless, mistakes.code(harmless)) == set()


@pytest.mark.parametrize("old", ["a line that is gone", "self"])
def test_a_stale_or_ambiguous_change_is_refused(old):
    with pytest.raises(AssertionError, match="residual"):
        mistakes.code(replace(MISTAKES[0], old=old))


def test_the_gallery():
    assert len(MISTAKES) == len({m.bug for m in MISTAKES}) >= 14
    assert all("\n" not in m.old + m.new for m in MISTAKES)
    for mistake in MISTAKES:
        assert set(mistake.caught_by) < set(mistake.exhibit.checks)
        for place in mistake.found:
            assert mistakes.links((place,)).startswith("[")
    checks = {check for m in MISTAKES for check in m.exhibit.checks}
    idle = checks - {check for m in MISTAKES for check in m.caught_by}
    assert {check.__name__ for check in idle} == {"output_shape", "batch_shapes", "mean_of_zero"}


def test_numbers_in_symptoms_are_measured():
    for mistake in MISTAKES:
        typed = re.sub(r"\{[^}]*\}", "", mistake.symptom)
        typed = re.sub(
            r"Shapes-10|CIFAR-10|10,000|ResNe?X?t-\d+|8x64d|0\.3 % top-5|by 1$", "", typed
        )
        assert not re.search(r"\d", typed), typed
