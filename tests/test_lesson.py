import io
import json
import math
import sys

from common import UserError, analysis, lesson
from common.analysis import Seeds, verdict
from common.blocks import BasicBlock, PlainBlock

import numpy as np
import pytest
import torch


@pytest.fixture
def report(tmp_path):
    args = lesson.parser("doc").parse_args(["--out-dir", str(tmp_path)])
    return lesson.Report("01_thing.py", args, "Shapes-10")


def test_seeds_have_mean_and_sample_deviation():
    seeds = Seeds([1.0, 2.0, 3.0])
    assert (seeds.mean, seeds.deviation) == (2.0, 1.0)
    assert math.isnan(Seeds([1.0]).deviation)
    assert seeds == [1.0, 2.0, 3.0]  # a list: results.json holds every number


def test_seeds_are_written_with_their_deviation():
    assert f"{Seeds([1.0, 2.0, 3.0]):.1f}" == "2.0 ± 1.0"
    assert f"{Seeds([0.872, 0.88]):.1%}" == "87.6 ± 0.6 %"
    assert f"{Seeds([0.001234, 0.001234])}" == "0.00123 ± 0"
    assert f"{Seeds([0.5]):.0%}" == "50 %"  # a single number stands alone
    assert f"{Seeds([2.345]):.2f}" == "2.35"


FIVE = Seeds([0.0, 1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize(
    ("relation", "verdicts"),
    [
        (">", ["holds", "unclear: 4 of 5 seeds", "unclear: 1 of 5 seeds", "does not hold"]),
        ("<", ["does not hold", "unclear: 1 of 5 seeds", "unclear: 4 of 5 seeds", "holds"]),
        ("<=", ["does not hold", "unclear: 1 of 5 seeds", "unclear: 4 of 5 seeds", "holds"]),
    ],
)
def test_verdicts_can_go_every_way(relation, verdicts):
    """By how much the left number of each seed is above the right one."""
    gaps = [5 * [0.1], [*4 * [0.1], -9], [*4 * [-0.1], 9], 5 * [-0.1]]
    lefts = [[r + gap for r, gap in zip(FIVE, by_seed, strict=True)] for by_seed in gaps]
    assert [verdict(left, relation, FIVE) for left in lefts] == verdicts


def test_no_more_allows_its_margin_and_not_more():
    above = Seeds(number + 2 for number in FIVE)
    assert verdict(above, "<=", FIVE, margin=2.0) == "holds"
    assert verdict(above, "<=", FIVE, margin=1.9) == "does not hold"
    mixed = Seeds([*above[:4], 9.0])
    assert verdict(mixed, "<=", FIVE, margin=2.0) == "unclear: 4 of 5 seeds"


def test_a_margin_is_not_missed_by_a_rounding():
    """0.89 - 0.86 and 0.87 - 0.84 are three points, in binary a little more and a little less."""
    left, right = Seeds([0.89, 0.87, 0.5, 0.7, 0.3]), Seeds([0.86, 0.84, 0.47, 0.67, 0.27])
    assert verdict(left, "<=", right, margin=0.03) == "holds"
    assert verdict(left, "<=", right, margin=0.0299) == "does not hold"


def test_verdicts_on_exact_numbers():
    assert verdict(FIVE, ">", -0.5) == "holds"
    assert verdict(FIVE, ">", 0.5) == "unclear: 4 of 5 seeds"
    assert verdict(-0.5, "<", FIVE) == "holds"
    assert verdict(2, ">", 1) == "holds"
    assert verdict(1, ">", 1) == "does not hold"
    assert verdict(1, "<=", 2) == "holds"


def test_four_seeds_are_not_enough_and_a_diverged_one_does_not_agree():
    assert verdict(Seeds([9.0] * 4), ">", 1.0) == "unclear: 4 of 4 seeds"
    for relation in (">", "<", "<="):
        assert verdict(Seeds([*FIVE[:4], math.nan]), relation, 9.0).startswith("unclear")
        assert verdict(9.0, relation, Seeds(5 * [math.nan])) == "unclear: 0 of 5 seeds"


def test_a_verdict_needs_a_known_relation_and_pairs():
    with pytest.raises(ValueError, match="relation must be"):
        verdict(FIVE, "==", FIVE)
    with pytest.raises(ValueError, match="argument"):
        verdict(FIVE, ">", FIVE[:4])


def test_how_often_the_rule_errs():
    """Without a difference the seeds agree by chance: n fair coins fall alike, either way up."""
    generator = np.random.default_rng(0)
    trials = 4_000
    for n in (5, 7):
        pairs = generator.normal(size=(trials, 2, n)).tolist()
        found = [verdict(left, ">", right) for left, right in pairs]
        chance, error = 0.5**n, 4 * (0.5**n / trials) ** 0.5
        for wrong in ("holds", "does not hold"):
            assert abs(found.count(wrong) / trials - chance) < error
    worse = generator.normal(size=(trials, n)) + 3  # by three deviations, none of them allowed
    found = [verdict(left, "<=", n * [0.0], margin=0.0) for left in worse.tolist()]
    assert found.count("holds") == 0


def test_a_claim_holds_both_sides_and_its_source(report, capsys):
    left, right = Seeds([0.3, 0.31, 0.32, 0.3, 0.32]), Seeds([0.1, 0.12, 0.1, 0.12, 0.11])
    report.claim("deeper is worse", left, ">", right, "figure 1", "{:.0%} against {:.0%}")
    report.claim("it explodes", right, ">", 1.0, source="theory", measured="{:.2f}")
    first, second = report.findings
    assert first["measured"] == "31 ± 1 % against 11 ± 1 %"
    assert (first["claim"], first["source"], first["n"]) == ("deeper is worse", "figure 1", 5)
    assert (first["verdict"], second["verdict"]) == ("holds", "does not hold")
    assert second["measured"] == "0.11 ± 0.01"
    printed = capsys.readouterr().out
    assert "[holds] deeper is worse\n    measured: 31 ± 1 % against 11 ± 1 %, n = 5\n" in printed
    assert "    source: figure 1\n\n[does not hold] it explodes\n" in printed


def test_a_terminal_shows_verdicts_in_colour_and_a_file_does_not(report, capsys, monkeypatch):
    for judged, colour in (("holds", 32), ("unclear: 4 of 5 seeds", 33), ("does not hold", 31)):
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        assert lesson.coloured(f"[{judged}] more") == f"\033[{colour}m[{judged}]\033[0m more"
        monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
        assert lesson.coloured(f"[{judged}] more") == f"[{judged}] more"
    report.claim("deeper is worse", 2, ">", 1, "figure 1")
    assert "[holds] deeper is worse\n    measured: 2 against 1 (exact)\n" in capsys.readouterr().out


def test_tables_align_numbers_to_the_right(report, capsys):
    report.table([{"name": "a", "count": 5}, {"name": "long name", "count": 1234}])
    out = capsys.readouterr().out.splitlines()
    assert out[-3:] == ["name       count", "a              5", "long name   1234"]


def test_tables_take_their_header_from_the_first_row(report, capsys):
    """A value that a row lacks leaves a gap, which makes no column a column of words."""
    report.table([{"name": "a", "loss": "0.5 ± 0.1"}, {"name": "b"}, {"name": "c", "loss": "nan"}])
    out = capsys.readouterr().out.splitlines()
    assert out[-4:] == ["name       loss", "a     0.5 ± 0.1", "b", "c           nan"]


def test_what_is_printed_is_what_is_saved(report, capsys):
    report.claim("claim", Seeds(5 * [0.2]), ">", 0.1, source="source")
    report.check("parity", True)
    returned = report.save({"loss": float("nan"), "pair": (1, 2.5), "seeds": Seeds([1.0, 2.0])})
    saved = json.loads((report.folder / "results.json").read_text(encoding="utf-8"))
    assert saved == returned
    assert saved["measured"] == {"loss": None, "pair": [1, 2.5], "seeds": [1.0, 2.0]}
    assert saved["findings"][0]["verdict"] == "holds"
    assert saved["failed_checks"] == []
    assert {"seed", "device", "data", "seconds", "versions"} <= set(saved)
    text = (report.folder / "report.txt").read_text(encoding="utf-8")
    assert "±" in text
    assert text.endswith(capsys.readouterr().out)


def test_an_ascii_terminal_gets_a_sign_that_it_has(report, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    monkeypatch.setattr(sys, "stdout", terminal)
    report.say(f"{Seeds([1.0, 3.0]):.0f}")
    terminal.flush()
    assert terminal.buffer.getvalue() == b"2 +- 1\n"
    assert report.lines[-1] == "2 ± 1"  # report.txt is UTF-8 everywhere


SETTINGS = {
    "epochs": (30, 1),
    "depths": ([20, 56], [8]),
    "radius": (1.0, 0.5, lesson.rate, "of the plane"),
}


def settings(*argv):
    args = lesson.parser("doc", SETTINGS).parse_args([*argv])
    return args.epochs, args.depths, args.radius


def test_settings_become_flags():
    assert settings() == (30, [20, 56], 1.0)
    assert settings("--epochs", "2", "--depths", "8", "14", "20", "--radius", "0.1") == (
        2,
        [8, 14, 20],
        0.1,
    )
    text = lesson.parser("doc", SETTINGS).format_help()
    for words in ("of the plane (default: 1.0)", "(default: 20 56)", "(default: 30)"):
        assert words in text


def test_quick_replaces_settings():
    assert settings("--quick") == (1, [8], 0.5)
    assert settings("--epochs", "2", "--quick") == (1, [8], 0.5)  # flags give way to it


@pytest.mark.parametrize("flags", ["--epochs 0", "--epochs x", "--radius 0", "--depths", "--epo 3"])
def test_a_wrong_flag_is_one_line_and_exit_status_2(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        settings(*flags.split())
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_failed_check_is_exit_status_1(report):
    def main(argv):
        report.check("parity", False)
        return report.save({})

    with pytest.raises(SystemExit) as stop:
        lesson.run(main)
    assert stop.value.code == 1


def test_a_mistake_is_one_line_and_exit_status_2(capsys):
    def main(argv):
        raise UserError("this folder\nis empty")

    with pytest.raises(SystemExit) as stop:
        lesson.run(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(": this folder is empty\n")


def test_source_difference_is_the_shortcut():
    lines = analysis.source_difference(PlainBlock, BasicBlock)
    assert lines[0].startswith("PlainBlock: common/blocks/residual.py, line ")
    removed = [line[1:].strip() for line in lines[2:] if line.startswith("-")]
    assert removed == [
        "class PlainBlock(nn.Module):",
        "def __init__(self, in_channels: int, channels: int, stride: int = 1):",
        "return self.relu2(out)",
    ]
    assert "+        return self.relu2(out + self.shortcut(x))" in lines


def test_a_file_that_may_not_be_opened_is_one_line(capsys):
    def main(_argv):
        raise PermissionError(13, "Permission denied", "/locked/last.pt")

    with pytest.raises(SystemExit) as stop:
        lesson.run(main)
    assert stop.value.code == 2
    assert "/locked/last.pt cannot be opened: Permission denied" in capsys.readouterr().err


def test_unknown_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device mps"):
        lesson.device("mps")
