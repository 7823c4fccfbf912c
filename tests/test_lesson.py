import json

import pytest

from common import UserError, lesson
from common.blocks import BasicBlock, PlainBlock


@pytest.fixture
def report(tmp_path):
    args = lesson.parser("doc").parse_args(["--out-dir", str(tmp_path)])
    return lesson.Report("01_thing.py", args, "Shapes-10")


def test_verdicts_can_go_every_way():
    assert lesson.verdict(0.3, 0.1) == "holds"
    assert lesson.verdict(-0.3, 0.1) == "does not hold"
    assert lesson.verdict(0.05, 0.1) == "not reproduced in this run"
    assert lesson.verdict(float("nan"), 0.1) == "not reproduced in this run"


def test_summary_gives_mean_spread_and_n():
    assert lesson.summary([1.0, 2.0, 3.0], 1) == "2.0 +- 1.0 (n = 3)"


def test_tables_align_numbers_to_the_right(report, capsys):
    report.table(["name", "count"], [["a", 5], ["long name", 1234]])
    out = capsys.readouterr().out.splitlines()
    assert out[-3:] == ["name       count", "a              5", "long name   1234"]


def test_what_is_printed_is_what_is_saved(report, capsys):
    report.finding("claim", "predicted", "measured", "holds")
    report.check("parity", True)
    returned = report.save({"loss": float("nan"), "pair": (1, 2.5)})
    saved = json.loads((report.folder / "results.json").read_text(encoding="utf-8"))
    assert saved == returned
    assert saved["measured"] == {"loss": None, "pair": [1, 2.5]}
    assert saved["findings"][0]["verdict"] == "holds"
    assert saved["failed_checks"] == []
    assert {"seed", "device", "data", "seconds", "versions"} <= set(saved)
    text = (report.folder / "report.txt").read_text(encoding="utf-8")
    assert text.endswith(capsys.readouterr().out)


def test_a_failed_check_is_exit_status_1(report):
    def main():
        report.check("parity", False)
        return report.save({})

    with pytest.raises(SystemExit) as stop:
        lesson.run(main)
    assert stop.value.code == 1


def test_a_mistake_is_one_line_and_exit_status_2(capsys):
    def main():
        raise UserError("this folder\nis empty")

    with pytest.raises(SystemExit) as stop:
        lesson.run(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(": this folder is empty\n")


def test_source_difference_is_the_shortcut():
    lines = lesson.source_difference(PlainBlock, BasicBlock)
    assert lines[0].startswith("PlainBlock: common/blocks/residual.py, line ")
    removed = [line[1:].strip() for line in lines[2:] if line.startswith("-")]
    assert removed == [
        "class PlainBlock(nn.Module):",
        "def __init__(self, in_channels: int, channels: int, stride: int = 1):",
        "return F.relu(out)",
    ]
    assert "+        return F.relu(out + self.shortcut(x))" in lines


def test_unknown_device_is_refused():
    with pytest.raises(UserError, match="--device mps"):
        lesson.device("mps")
