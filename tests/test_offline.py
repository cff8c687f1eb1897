"""Importing, training and analysing open no connection, and name and store experiments the same in every locale."""

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import tiny

ROOT = Path(__file__).parents[1]
SCRIPT = """
import socket, sys

def refuse(*args, **kwargs):
    print("a connection was tried", file=sys.stderr)
    raise SystemExit(3)

sys.addaudithook(lambda event, args: refuse() if event in ("socket.connect", "socket.getaddrinfo") else None)
try:
    socket.create_connection(("localhost", 9))
except SystemExit:
    print("refused")

import warnings
import unifylens as ul
from unifylens.training import store
warnings.simplefilter("error")
experiment = ul.Experiment.model_validate_json(sys.stdin.read())
run = ul.train(experiment)
ul.transfer(run.model, run.corpus)
ul.unification(run.model, run.corpus)
assert store.load(experiment).steps == run.steps and store.runs()["state"].tolist() == ["intact"]
print(experiment.key(1))
"""


def test_training_works_without_a_network_and_in_every_locale(empty_store):
    """In a process of its own, whose files are ASCII unless it is said otherwise."""
    templates = ("{subject} größe {relation} {object}",)
    experiment = tiny(**{"train.steps": 10, "language.templates": templates})
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    alone = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(experiment.model_dump(mode="json")),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **alone, **ascii_only},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused", experiment.key(1)]
    assert done.stderr.count("a connection was tried") == 1  # the script's own, which shows that trying is noticed
    assert "training 1 models" in done.stderr  # the progress bar
    assert list(empty_store.glob("runs/*"))
