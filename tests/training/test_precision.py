"""The precision "auto": what it becomes on which machine, and that a run keeps it."""

import dataclasses
import sys
import types

import keras
import numpy as np
import pytest

from keras_tune.augment import AugmentConfig
from keras_tune.recipes import pretrain as recipe
from keras_tune.training import ModelConfig, PretrainConfig, PretrainingRun
from keras_tune.training.precision import best_precision, with_precision
from keras_tune.training.run_folder import read_config, write_config

AUTO = PretrainConfig(precision="auto")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that gives the machine a backend, and a processor with some instructions."""

    def give(backend, flags=None):
        file = tmp_path / "cpuinfo"
        if flags is not None:
            file.write_text(f"processor : 0\nflags : fpu {flags}\n")
        monkeypatch.setattr("keras_tune.machine.CPUINFO", file)
        monkeypatch.setattr(keras.backend, "backend", lambda: backend)
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)

    return give


def tensorflow_with(*capabilities):
    experimental = types.SimpleNamespace(
        get_device_details=lambda gpu: {"compute_capability": gpu} if gpu else {}
    )
    config = types.SimpleNamespace(
        list_physical_devices=lambda kind: list(capabilities), experimental=experimental
    )
    return types.SimpleNamespace(config=config)


def jax_with(*devices):
    return types.SimpleNamespace(devices=lambda: list(devices))


def device(platform, **more):
    return types.SimpleNamespace(platform=platform, **more)


def torch_with(*capabilities, mps=False):
    cuda = types.SimpleNamespace(
        is_available=lambda: bool(capabilities),
        device_count=lambda: len(capabilities),
        get_device_capability=lambda number: capabilities[number],
    )
    available = types.SimpleNamespace(is_available=lambda: mps)
    return types.SimpleNamespace(cuda=cuda, backends=types.SimpleNamespace(mps=available))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "flags, policy, reason",
    [
        ("avx512f avx512_bf16", "mixed_bfloat16", "the CPU has avx512_bf16"),
        ("avx512_bf16 amx_bf16", "mixed_bfloat16", "the CPU has amx_bf16"),
        ("avx2 avx512f", "float32", "the CPU has no bfloat16"),
        (None, "float32", "it is not known whether the CPU has bfloat16"),
    ],
)
def test_on_a_processor(machine, monkeypatch, flags, policy, reason):
    machine("tensorflow", flags)
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow_with())
    assert best_precision() == (policy, reason)
    # oneDNN has the operations in bfloat16.
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert best_precision()[0] == "float32"


@pytest.mark.one_backend
def test_on_a_processor_with_another_backend(machine, monkeypatch):
    machine("jax", "avx512_bf16 amx_bf16")
    monkeypatch.setitem(sys.modules, "jax", jax_with(device("cpu")))
    policy, reason = best_precision()
    assert policy == "float32" and "JAX" in reason
    machine("torch", "avx512_bf16 amx_bf16")
    monkeypatch.setitem(sys.modules, "torch", torch_with())
    # This is about TensorFlow only.
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert best_precision() == ("mixed_bfloat16", "the CPU has amx_bf16")
    machine("torch", "avx2")
    assert best_precision()[0] == "float32"


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "backend, module, policy",
    [
        ("tensorflow", tensorflow_with((9, 0)), "mixed_bfloat16"),
        ("tensorflow", tensorflow_with((9, 0), (7, 5)), "float32"),
        ("tensorflow", tensorflow_with(None), "float32"),
        ("jax", jax_with(device("gpu", compute_capability="8.0")), "mixed_bfloat16"),
        ("jax", jax_with(device("gpu", compute_capability="7.0")), "float32"),
        ("jax", jax_with(device("gpu", compute_capability="gfx90a")), "float32"),
        ("jax", jax_with(device("tpu")), "mixed_bfloat16"),
        ("torch", torch_with((8, 6)), "mixed_bfloat16"),
        ("torch", torch_with((8, 6), (6, 1)), "float32"),
        ("torch", torch_with(mps=True), "float32"),
    ],
)
def test_on_accelerators(machine, monkeypatch, backend, module, policy):
    # Whatever the CPU has.
    machine(backend, "amx_bf16")
    monkeypatch.setitem(sys.modules, backend, module)
    found, reason = best_precision()
    assert found == policy and reason.startswith("the accelerator")


def test_on_this_machine():
    policy, reason = best_precision()
    assert policy in ("float32", "mixed_bfloat16") and reason


def test_a_precision_that_is_named_stays(machine):
    machine(keras.backend.backend(), "amx_bf16")
    named = dataclasses.replace(AUTO, precision="mixed_float16")
    assert with_precision(named) == (named, "")


@pytest.fixture
def chosen(monkeypatch):
    """Let the machine have bfloat16."""
    monkeypatch.setattr(
        "keras_tune.training.precision.best_precision", lambda: ("mixed_bfloat16", "a reason")
    )


@pytest.mark.one_backend
def test_a_run_that_goes_on_keeps_its_precision(chosen, tmp_path):
    assert with_precision(AUTO, tmp_path)[0].precision == "mixed_bfloat16"
    write_config(tmp_path, dataclasses.replace(AUTO, precision="float32"))
    config, reason = with_precision(AUTO, tmp_path)
    assert (config.precision, reason) == ("float32", "the run began with it")
    # What was written before the machine had decided.
    write_config(tmp_path, AUTO)
    assert with_precision(AUTO, tmp_path)[0].precision == "mixed_bfloat16"


@pytest.fixture
def small(tmp_path):
    """The configuration of a run of an epoch."""
    clips = np.random.default_rng(0).normal(0, 3000, (8, 500)).astype("int16")
    np.savez(tmp_path / "clips.npz", audio=clips, split=["train"] * 8)
    return recipe.PretrainConfig(
        data=str(tmp_path / "clips.npz"),
        output=str(tmp_path / "run"),
        model=ModelConfig("tune_plus", 1, 2, 2, [4, 6, 8], input_samples=243),
        augment=AugmentConfig(pitch_shift_probability=0.0, reverb_probability=0.0),
        epochs=1,
        batch_size=4,
    )


@pytest.mark.one_backend
def test_a_run_records_what_was_chosen(chosen, small, monkeypatch):
    assert small.precision == "auto"
    run = PretrainingRun(small)
    run.fit(verbose=0)
    assert run.precision_reason == "a reason"
    assert run.model.encoder.get_layer("bottleneck").compute_dtype == "bfloat16"
    assert run.save_encoder().get_layer("bottleneck").compute_dtype == "float32"
    assert read_config(small.output)["precision"] == "mixed_bfloat16"
    # Another machine goes on with it.
    monkeypatch.setattr(
        "keras_tune.training.precision.best_precision", lambda: ("float32", "another")
    )
    resumed = PretrainingRun(dataclasses.replace(small, epochs=2, resume=True))
    resumed.open()
    assert resumed.config.precision == "mixed_bfloat16"
    assert resumed.start.finished_epochs == 1


@pytest.mark.one_backend
def test_the_command_tells_what_was_chosen_and_what_it_waits_for(chosen, small, capsys):
    recipe.main(small)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "precision: mixed_bfloat16, since a reason"
    compiles = keras.backend.backend() != "torch"
    assert ("compiling the first step …" in lines) == compiles
    recipe.main(dataclasses.replace(small, epochs=2, resume=True))
    assert "precision: mixed_bfloat16, since the run began with it" in capsys.readouterr().out
