import functools
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml

from keras_tune.data import save_demo
from keras_tune.errors import UserError
from keras_tune.recipes import _cli, pretrain, search
from keras_tune.training import build_model

pytestmark = pytest.mark.one_backend

SMALL = [
    "--input_samples=243",
    "--batch_size=4",
    "--projection_dim=4",
    "--epochs=1",
    "--parameter_budget=null",
    "--space.base_filters=2",
    "--space.contraction_depth=2",
    "--space.tail_length=4",
    "--space.representation_dim=4",
    "--space.decoder_depth=[1,2]",
    *(
        f"--augment.{step}_probability=0"
        for step in ("polarity", "noise", "gain", "filter", "delay", "pitch_shift", "reverb")
    ),
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "demo.npz"
    save_demo(path, num_clips={"train": 8, "valid": 6}, seconds=0.1)
    return path


def parsed(config_class, *options):
    found = []
    _cli.run(found.append, config_class, [str(option) for option in options])
    return found[0]


def command(*options):
    _cli.run(search.main, search.SearchConfig, [str(option) for option in options])


def error_of(capsys, *options):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command(*options)
    assert stop.value.code == 1
    # KerasTuner and TensorFlow write to standard error too; the last line is ours.
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in lines[-1] and ": error: " in lines[-1]
    return lines[-1]


def arguments(clips, output, *options):
    return ["--data", str(clips), "--output", str(output), *SMALL, *options]


def test_a_search_leaves_everything_behind(clips, tmp_path, capsys):
    output = tmp_path / "search"
    command(*arguments(clips, output, "--seeds=2"))
    trials = pd.read_csv(output / "search.csv")
    assert trials["decoder_depth"].tolist() == [1, 2]
    assert (trials["status"] == "COMPLETED").all()
    assert (trials[["seconds", "peak_memory_mb", "parameters"]] > 0).all(axis=None)
    runs = pd.read_csv(output / "runs.csv")
    # The trials had the seed 42, and are not among the runs that are compared.
    assert runs.groupby("decoder_depth")["seed"].apply(list).to_dict() == {1: [43, 44], 2: [43, 44]}
    repeats = [json.loads(path.read_text()) for path in (output / "repeats").glob("*.json")]
    assert sorted(runs["score"]) == sorted(
        repeat["last"]["val_contrastive_accuracy"] for repeat in repeats
    )
    depths = pd.read_csv(output / "depths.csv", index_col=0)
    assert depths["count"].tolist() == [2, 2]
    for picture in ("depths.png", "pareto.png"):
        assert (output / picture).read_bytes().startswith(b"\x89PNG")
    assert set(pd.read_csv(output / "pareto.csv")["against"]) == {"parameters", "seconds"}
    best = yaml.safe_load((output / "best.yaml").read_text())
    depth = depths["mean"].idxmax()
    assert best["model"]["decoder_depth"] == depth
    report = json.loads((output / "report.json").read_text())
    assert report["valid_clips"] == 6
    assert report["chance_contrastive_accuracy"] == pytest.approx(1 / 7)
    own = runs[runs["decoder_depth"] == depth]
    assert report["score"]["mean"] == pytest.approx(own["score"].mean())
    assert report["score"]["seeds"] == [43, 44] and report["score"]["epoch"] == "last"
    trial = trials[trials["decoder_depth"] == depth].iloc[0]
    assert report["score"]["chosen_trial"] == pytest.approx(trial["score"])

    # Once more, nothing is left to do; another search is refused.
    before = (output / "search.csv").read_text()
    command(*arguments(clips, output, "--seeds=2"))
    assert (output / "search.csv").read_text() == before
    line = error_of(capsys, *arguments(clips, output, "--epochs=2"))
    assert (
        "--epochs 2: must not change when a run is resumed; the run in" in line
        and str(output / "config.yaml") in line
    )


def best_recipe(tmp_path, tail):
    config = parsed(search.SearchConfig, "--data=mine", "--space.decoder_depth=2")
    best = {
        "trial": "0",
        "score": 0.5,
        "epochs": 10,
        "parameters": 2e6,
        "decoder_depth": 2,
        "contraction_depth": 4,
        "base_filters": 11,
        "extra_links": True,
        "tail_filters": " ".join(map(str, tail)),
        "learning_rate": 0.001,
        "temperature": 0.1,
        "augment/gain_probability": 0.25,
    }
    path = tmp_path / "best.yaml"
    search._write_best(path, search._recipe(config, config.data), best, "0.5, one run")
    return path


def test_pretrain_takes_the_best_recipe(tmp_path):
    # The preset's tail, two stages of which go with the two missing stages of the decoder.
    path = best_recipe(tmp_path, [88, 176, 352, 352, 352, 352, 512])
    config = parsed(pretrain.PretrainConfig, "--config", path)
    assert (config.data, config.learning_rate, config.temperature) == ("mine", 0.001, 0.1)
    assert config.augment.gain_probability == 0.25
    assert config.augment.filter_probability == 0.8
    encoder = build_model(config, 22050, 1).encoder
    assert (encoder.decoder_depth, encoder.base_filters, encoder.extra_links) == (2, 11, True)
    assert encoder.tail_filters == (88, 176, 352, 352, 352, 352, 512)


def test_pretrain_takes_a_tail_of_its_own(tmp_path):
    path = best_recipe(tmp_path, [88, 176, 256])
    config = parsed(pretrain.PretrainConfig, "--config", path)
    assert build_model(config, 22050, 1).encoder.tail_filters == (88, 176, 256)


def test_trials_in_processes_of_their_own_get_streams_and_callbacks(clips):
    """They are pickled, with the configuration of the command."""
    options = ["--batch_size=4", "--input_samples=243", "--steps_per_epoch=3"]
    config = parsed(search.SearchConfig, *options, "--probe=instrument")
    streams = functools.partial(search._streams, config, str(clips))
    callbacks = functools.partial(search._probe, config, str(clips))
    streams, callbacks = pickle.loads(pickle.dumps((streams, callbacks)))
    assert streams(0, 2).steps_per_epoch == 3
    assert len(callbacks()[0].train[0]) == 8
    config.mask_group, config.probe = "singer", "mood"
    with pytest.raises(UserError, match="--mask_group singer: must be a label of"):
        search._streams(config, str(clips), 0, 2)
    with pytest.raises(UserError, match="--probe mood: must be a label of"):
        search._probe(config, str(clips))


@pytest.mark.nightly
def test_three_failures_in_a_row_end_with_the_reason(clips, tmp_path, capsys):
    options = ["--space.tail_length=9", "--space.learning_rate=[0.1,0.2]"]
    line = error_of(capsys, *arguments(clips, tmp_path / "search", *options))
    assert "3 trials in a row failed" in line and "input_samples" in line
    assert "decoder_depth 1, learning_rate 0.1" in line
    table = pd.read_csv(tmp_path / "search" / "search.csv")
    assert (table["status"] == "FAILED").all() and len(table) == 3
    assert table["reason"].str.contains("input_samples").all()


def test_one_line_for_what_the_user_can_mend(clips, tmp_path, capsys):
    run = arguments(clips, tmp_path / "x")
    assert "val_probe" in error_of(capsys, *run, "--objective=val_probe")
    temperatures = ["--objective=val_loss", "--space.temperature=[0.1,0.5]"]
    assert "temperature" in error_of(capsys, *run, *temperatures)
    # What the library says about its arguments names the options.
    unbounded = ["--parameter_budget=null", "--space.base_filters=null"]
    assert "--parameter_budget: must be given" in error_of(capsys, *run, *unbounded)
    line = error_of(capsys, *run, "--space.augment={echo: 1.0}")
    assert "--space.augment.echo 1.0: must be one of" in line


def start(options, output=subprocess.PIPE, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "keras_tune.recipes.search", *options],
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.nightly
def test_killed_and_started_again(clips, tmp_path):
    output = tmp_path / "search"
    options = arguments(clips, output, "--max_trials=12", "--isolate=false")
    options.append("--space.learning_rate={min: 0.001, max: 0.1}")
    process = start(options)
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and len(list(output.glob("trials/*/outcome.json"))) < 2:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finished = {path: path.read_text() for path in output.glob("trials/*/history.csv")}
    kept = sorted(finished)[:1]
    assert not (output / "search.csv").exists()
    command(*options)
    assert len(pd.read_csv(output / "search.csv")) == 12
    assert [path.read_text() for path in kept] == [finished[path] for path in kept]


@pytest.mark.nightly
def test_a_chief_and_two_workers_over_loopback(clips, tmp_path):
    """Three processes on this machine; slow, because KerasTuner's chief looks every 20 s."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = arguments(clips, tmp_path / "search", "--space.extra_links=[true,false]")
    options.append("--isolate=false")
    outputs = [tmp_path / name for name in ("chief", "worker0", "worker1")]

    def begin(output):
        return start(
            options,
            open(output, "w"),
            KERASTUNER_TUNER_ID=output.name,
            KERASTUNER_ORACLE_IP="127.0.0.1",
            KERASTUNER_ORACLE_PORT=str(port),
        )

    # A chief whose first worker has done everything ends, and a second one that comes late would
    # wait for it in vain; so both are there before it is.
    processes = [begin(output) for output in outputs[1:]]
    try:
        deadline = time.monotonic() + 300
        while not all("waiting for the chief" in output.read_text() for output in outputs[1:]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        processes.insert(0, begin(outputs[0]))
        for process in processes:
            process.wait(timeout=300)
    finally:
        for process in processes:
            process.kill()
    outputs = [output.read_text() for output in outputs]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    table = pd.read_csv(tmp_path / "search" / "search.csv")
    assert (table["status"] == "COMPLETED").all() and len(table) == 4
    assert sum(output.count("val_contrastive_accuracy") for output in outputs[1:]) == 4
    assert "trial 0" not in outputs[0]


@pytest.mark.nightly
def test_a_worker_without_a_chief_ends(clips, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(
        arguments(clips, tmp_path / "search", "--chief_timeout=2", "--isolate=false"),
        KERASTUNER_TUNER_ID="worker0",
        KERASTUNER_ORACLE_IP="127.0.0.1",
        KERASTUNER_ORACLE_PORT=str(port),
    )
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in output, output
    line = output.strip().splitlines()[-1]
    assert line.startswith(f"search: error: the chief at 127.0.0.1:{port} did not respond for 2 s")


@pytest.mark.nightly
def test_a_worker_whose_chief_is_killed_ends(clips, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--chief_timeout=10", "--isolate=false", "--max_trials=1000", "--tuner=random"]
    options.append("--space.learning_rate={min: 0.001, max: 0.1}")
    where = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}
    options = arguments(clips, tmp_path / "search", *options)
    processes = []

    def begin(name):
        with open(tmp_path / name, "w") as log:
            processes.append(start(options, log, KERASTUNER_TUNER_ID=name, **where))
        return processes[-1]

    try:
        chief = begin("chief")
        while not (tmp_path / "search" / "trials" / "oracle.json").exists():
            assert chief.poll() is None, (tmp_path / "chief").read_text()
            time.sleep(0.1)
        worker = begin("worker0")
        while "trial 0" not in (tmp_path / "worker0").read_text():
            assert worker.poll() is None, (tmp_path / "worker0").read_text()
            time.sleep(0.1)
        chief.kill()
        assert worker.wait(timeout=300) == 1
    finally:
        for process in processes:
            process.kill()
    output = (tmp_path / "worker0").read_text()
    assert output.strip().splitlines()[-1].startswith("search: error: the chief at ")


def test_a_repetition_that_diverges_is_no_score(clips, tmp_path, capsys, monkeypatch):
    """A mean over the other seeds would say less than it seems to."""
    from keras_tune.search import tuner

    original = tuner.summary_of

    def diverged(history, objective, direction):
        summary = original(history, objective, direction)
        return {**summary, "score": float("nan")} if seeds.pop(0) == 44 else summary

    output, seeds = tmp_path / "search", [43, 44]
    options = arguments(clips, output, "--space.decoder_depth=1")
    command(*options)
    monkeypatch.setattr(tuner, "summary_of", diverged)
    line = error_of(capsys, *options, "--seeds=2")
    assert "with seed 44: its val_contrastive_accuracy is not finite" in line
