import os
import platform
import subprocess
import sys

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


def new_pages(keep):
    """How often the system gives a new process memory for a block that it has had before."""
    code = (
        "import ctypes, resource\n"
        "from keras_tune.machine import keep_freed_memory\n"
        f"kept = keep_freed_memory({keep!r})\n"
        "library = ctypes.CDLL(None)\n"
        "library.malloc.restype = ctypes.c_void_p\n"
        "def use():\n"
        "    block = ctypes.c_void_p(library.malloc(2**26))\n"
        "    ctypes.memset(block, 1, 2**26)\n"
        "    library.free(block)\n"
        "use()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "use()\n"
        "print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    kept, pages = done.stdout.split()
    return kept == "True", int(pages)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_freed_memory_is_kept_for_pytorch():
    kept, pages = new_pages("torch")
    assert kept and pages < 10
    kept, pages = new_pages("tensorflow")
    # 64 MB are 32 pages where pages are large, and 16,384 where they are not.
    assert not kept and pages >= 30
