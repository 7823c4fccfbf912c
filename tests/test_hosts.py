"""The lessons inside other programs: notebooks, IDLE, threads, pythonw, what a host has set."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

from common import UserError, lesson, models, plotting, training

import matplotlib
import pytest
import torch
from matplotlib import pyplot

ABSENT = "module://no_such_backend"  # as module://matplotlib_inline... is outside a kernel


@pytest.fixture
def report(tmp_path):
    args = lesson.parser("doc").parse_args(["--out-dir", str(tmp_path)])
    return lesson.Report("01_thing.py", args, "made up")


@pytest.fixture
def foreign_backend():
    """A backend that cannot be loaded here, and afterwards the one that was chosen before."""
    before = matplotlib.rcParams["backend"]
    matplotlib.rcParams["backend"] = ABSENT
    yield
    matplotlib.rcParams["backend"] = before
    plotting.use_theme()


def test_a_stream_that_cannot_be_reconfigured_is_left_as_it_is(monkeypatch):
    """Those of a notebook and of IDLE."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as stop:
        lesson.run(lambda argv: print("trained") or {"failed_checks": []})
    assert (stop.value.code, stream.getvalue()) == (0, "trained\n")


def test_a_stream_need_not_say_its_encoding(report, monkeypatch):
    """Nor anything else but how to write: those that hosts and students make up."""
    written = []
    bare = SimpleNamespace(write=written.append, flush=lambda: None)
    monkeypatch.setattr(sys, "stdout", bare)
    report.say("2 ± 1")
    assert "".join(written) == "2 +- 1\n"


def test_a_program_without_a_terminal_has_streams():
    """pythonw, and a shell's `>&-` and `2>&-`: Python sets them to None."""
    code = "import sys; sys.stdout = sys.stderr = None; import common; "
    code += "sys.stdout.write('x'); sys.stderr.write('y'); print('z', flush=True)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


BACKENDS = {"module://matplotlib_no.backend": False, "module://json.backend": True}
BACKENDS |= {"module://": False, "nonsense": False, "agg": True, "TkAgg": True, "": True}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_counts_where_it_is(backend):
    code = "import os, common; print('MPLBACKEND' in os.environ)"
    environment = os.environ | {"MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.decode().strip() == str(BACKENDS[backend])


def signals(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


def test_a_signal_ends_any_lesson_in_one_line(capsys):
    """Also what comes while it is ending, and though somebody catches every Exception."""

    def careless(argv):
        try:
            signals(signal.SIGTERM)
        except Exception:
            return {"failed_checks": []}
        finally:
            signals(signal.SIGHUP, signal.SIGTERM)

    before = [signal.getsignal(number) for number in training.signals.ENDING]
    with pytest.raises(SystemExit) as stop:
        lesson.run(careless)
    assert stop.value.code == 143
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [signal.getsignal(number) for number in training.signals.ENDING] == before


def test_a_second_ctrl_c_does_not_cut_the_line_short(monkeypatch):
    stream = SimpleNamespace(write=lambda text: signals(signal.SIGINT), flush=lambda: None)
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(SystemExit) as stop:
        lesson.run(lambda argv: signals(signal.SIGINT))
    assert stop.value.code == 130


def test_a_signal_ends_networks_that_train_side_by_side(capsys):
    """Though they have a minute to go, and though Ctrl-C follows; nothing of it stays behind."""
    layer, before = torch.nn.Linear(1, 1), threading.active_count()
    start = time.monotonic()

    def job(_seed):
        for number in (signal.SIGTERM, signal.SIGINT):
            time.sleep(0.1)  # until all are under way; until all are waited for
            signals(number)
        time.sleep(0.1)
        while time.monotonic() < start + 60:
            layer(torch.zeros(1, 1))

    with pytest.raises(SystemExit) as stop:
        lesson.run(lambda argv: training.side_by_side(job, [1, 2, 3], "cpu"))
    assert stop.value.code == 143
    assert time.monotonic() < start + 5
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert threading.active_count() == before
    layer(torch.zeros(1, 1))


def test_what_is_ignored_stays_ignored():
    """As nohup wants it of SIGHUP, and a shell of the SIGINT of a job in the background."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (1, 2)}
    try:
        with training.signals.raised(), training.signals.deferred() as received:
            signals(*before, signal.SIGTERM)
        assert received == [signal.SIGTERM]
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def test_only_a_second_ctrl_c_acts_at_once():
    with training.signals.deferred() as received:
        signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            signals(signal.SIGINT)
    assert received[:2] == [signal.SIGINT, signal.SIGTERM]


def test_a_terminal_that_is_gone_costs_no_step():
    saved = []
    with (
        pytest.raises(OSError, match="Input/output"),
        training.signals.interruptible(lambda: saved.append(1), 0, 9, "cpu", "go on"),
    ):
        raise OSError(5, "Input/output error")
    assert saved == [1]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError("Unable to allocate 72.0 GiB for an array"), "for 72.0 GiB"),
        (
            RuntimeError("can't allocate memory: you tried to allocate 36000000000 bytes."),
            "36.0 GB",
        ),
        (OSError(28, "No space left on device"), "output: .*No space left"),
    ],
)
def test_what_the_machine_refuses_is_one_line(error, words, capfd):
    def main(argv):
        raise error

    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.StringIO())  # its end would be silenced for good
        lesson.run(main)
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(words, line)


def test_torchrun_is_for_lesson_6(report, monkeypatch):
    for name in ("LOCAL_RANK", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="torchrun is for lesson 6"):
        lesson.Report("01_thing.py", report.args, "made up")


def test_flags_are_those_of_a_script_and_not_those_of_a_kernel(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    assert lesson.parser("doc").parse_args().seed == 0
    with pytest.raises(SystemExit) as stop:
        lesson.run(lambda argv: {"failed_checks": argv == ["-f", "kernel.json"]})
    assert stop.value.code == 1  # a script's own flags are handed on


def test_a_thread_leaves_signals_to_its_host():
    before, called = signal.getsignal(signal.SIGINT), []

    def train():
        with training.signals.interruptible(lambda: called.append("saved"), 2, 4, "cpu", "") as on:
            called.append(signal.getsignal(signal.SIGINT) is before)
            for step in range(1, 5):
                on(step, "batch")
        called.append("done")

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert called == [True, "saved", "saved", "done"]
    assert signal.getsignal(signal.SIGINT) is before


def test_figures_leave_backend_and_open_figures_alone(report, foreign_backend):
    plotting.use_theme()
    figure, axes = plotting.new_figure("title", "subtitle", ncols=2)
    plotting.predictions.seaborn.heatmap([[1, 2], [3, 4]], ax=axes[0], annot=True)
    report.figure(figure, "map")
    assert (report.folder / "map.png").stat().st_size > 5_000
    assert matplotlib.rcParams["backend"] == ABSENT
    assert pyplot.get_fignums() == []


def test_windows_that_cannot_be_opened_are_refused_before_the_training(foreign_backend):
    with pytest.raises(UserError, match="--show: matplotlib cannot open windows here"):
        plotting.use_theme(show=True)


def test_with_show_figures_are_pyplots_and_windows_open(report, monkeypatch):
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.extend(pyplot.get_fignums()))
    monkeypatch.setattr(report.args, "show", True)
    plotting.use_theme(show=True)
    report.figure(plotting.new_figure("title", "subtitle")[0], "one")
    report.save({})
    plotting.use_theme()
    assert len(shown) == 1


@pytest.mark.parametrize(("kernel", "show", "expected"), [(1, 0, 1), (0, 0, 0), (1, 1, 0)])
def test_a_notebook_shows_a_figure_once(kernel, show, expected, report, monkeypatch):
    """By its file, or with --show by pyplot; IPython in a terminal shows none."""
    seen, shell = [], SimpleNamespace(**({"kernel": object()} if kernel else {}))
    display = SimpleNamespace(display=seen.append, Image=lambda filename, width: filename)
    module = SimpleNamespace(get_ipython=lambda: shell, display=display)
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setattr(report.args, "show", show)
    report.figure(plotting.new_figure("title", "subtitle")[0], "one")
    assert seen == [report.folder / "one.png"] * expected


def test_one_variable_of_torchruns_is_no_torchrun(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert not training.parallel.started()
    with training.parallel.processes("cpu"):
        assert training.parallel.world() == 1
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    assert training.parallel.started()


def test_one_image_with_a_1x1_map_names_the_flags():
    model = models.cifar_resnet(8, width=4)  # 4x4 pixels become 1x1
    step = training.sgd(model, 0.1), "cpu"
    x, y = torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)
    training.train_step(model, x, y, *step)
    training.train_step(model, torch.zeros(1, 3, 8, 8), y[:1], *step)
    with pytest.raises(UserError, match="--batch-size, or a smaller --accumulate"):
        training.train_step(model, x, y, *step, parts=2)
    with pytest.raises(ValueError, match="batch_size"):  # another mistake stays what it is
        training.train_step(model, x, y[:1], *step)
