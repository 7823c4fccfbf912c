"""Lesson 6 in two processes under torchrun, on a CPU: the same gradients, every image once."""

import importlib
import json
import os
import signal
import subprocess
import sys

from tests.test_resume import LAST, ROOT, SCRIPT, command, photos, wait_for_change  # noqa: F401

import torch

FIRST_STEP = """
import sys, torch
from common import data, models, training
from common.training import parallel, step
step.native_bf16 = lambda device: False
with parallel.processes("cpu"):
    torch.manual_seed(parallel.rank())  # rank 0's weights must become all ranks' weights
    model = models.cifar_resnet(8, width=4)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval().train = lambda mode=True: None  # statistics stay fixed
    trainer = training.Trainer(model, data.load("shapes", size=8, limit=200), 1, batch_size=45)
    def keep(step, batch):
        if step == 1:
            loss = parallel.total(trainer.sums["loss"]) / 45
            found = [loss, *(p.grad for p in model.parameters())]
            if parallel.rank() == 0:
                torch.save(found, sys.argv[1])
    list(trainer.run(on_step=keep))
"""


def torchrun(processes, *arguments, **options):
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    command_line = [sys.executable, "-m", *launcher, *map(str, arguments)]
    return subprocess.Popen(command_line, env=environment, **pipes, **options)


def test_the_first_gradients_are_those_of_one_process(tmp_path):
    (tmp_path / "first_step.py").write_text(FIRST_STEP)
    found = []
    for processes in (1, 2):
        done = torchrun(processes, tmp_path / "first_step.py", tmp_path / "grads.pt")
        errors = done.communicate()[1]
        assert done.returncode == 0, errors
        found.append(torch.load(tmp_path / "grads.pt"))
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, atol=1e-5, rtol=0)


def test_two_processes_test_every_image_once_and_one_takes_over(photos, tmp_path):  # noqa: F811
    script = importlib.import_module(SCRIPT)
    stopped = torchrun(2, f"{SCRIPT}.py", *command(photos, tmp_path))
    wait_for_change(tmp_path / LAST, stopped, 0)
    stopped.send_signal(signal.SIGTERM)
    assert "stopped after step" in stopped.communicate()[1]
    steps = torch.load(tmp_path / LAST, weights_only=True)["training"]["schedule"]["last_epoch"]
    assert 1 <= steps < 21
    alone = script.main(["--resume", str(tmp_path / LAST), "--out-dir", str(tmp_path / "one")])
    assert len(alone["measured"]["epochs"]) == 3

    resume = ["--resume", tmp_path / LAST, "--out-dir", tmp_path / "two"]
    done = torchrun(2, f"{SCRIPT}.py", *resume)
    output, errors = done.communicate()
    assert done.returncode == 0, errors
    assert output.count("test accuracy") == 1
    results = (tmp_path / "two" / SCRIPT / "results.json").read_text(encoding="utf-8")
    both = json.loads(results)["measured"]
    assert both["test_images"] == 8
    checked = ["--checkpoint", str(tmp_path / "two" / LAST), "--evaluate", "--data-dir"]
    again = script.main([*checked, str(photos), "--out-dir", str(tmp_path / "again")])["measured"]
    assert again["confusion"] == both["confusion"]
    assert [sum(row) for row in both["confusion"]] == [4, 4]
