import pytest

from keras_tune import machine

pytestmark = pytest.mark.one_backend

X86 = (
    "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx512f avx512_bf16\n\nprocessor\t: 1\n"
)


@pytest.mark.parametrize(
    "content, expected",
    [
        (X86, {"fpu", "avx512f", "avx512_bf16"}),
        ("processor : 0\nFeatures : fp asimd bf16\n", {"fp", "asimd", "bf16"}),
        ("processor : 0\n", None),
        (None, None),
    ],
)
def test_flags_of_the_processor(tmp_path, monkeypatch, content, expected):
    file = tmp_path / "cpuinfo"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(machine, "CPUINFO", file)
    assert machine.cpu_flags() == expected


@pytest.mark.parametrize("visible, expected", [("", False), ("-1", False), ("0", True)])
def test_hidden_gpus_are_none(monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("pathlib.Path.glob", lambda *_: iter(["/dev/nvidia0"]))
    assert machine.has_gpu() == expected


def test_backends_that_are_installed_come_in_one_order(monkeypatch):
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: object() if name != "tensorflow" else None
    )
    assert machine.installed_backends() == ["jax", "torch"]
