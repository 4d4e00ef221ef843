"""Preparations that are killed, that meet a full disk, or that meet each other."""

import json
import os
import subprocess
import sys

import pytest

from keras_tune.data import prepare
from keras_tune.errors import UserError

pytestmark = pytest.mark.one_backend

pytest.importorskip("tensorflow")

# One process imports TensorFlow, and forks itself for each preparation before using it.
KILLS = """
import os, pickle, random, signal, sys, time
import tensorflow
from keras_tune.data import prepare

manifest, folder, kills = pickle.load(open(sys.argv[1], "rb")), sys.argv[2], int(sys.argv[3])
options = dict(name="x", shards=5, workers=1, progress=False)

def started(output):
    child = os.fork()
    if not child:
        # An own group of processes, as a shell would have it.
        prepare(manifest, output, **options)
        os._exit(0)
    return child

begin = time.monotonic()
os.waitpid(started(f"{folder}/whole"), 0)
seconds = time.monotonic() - begin
generator = random.Random(0)
killed = 0
for number in range(kills):
    child = started(f"{folder}/{number}")
    time.sleep(generator.uniform(0, seconds))
    os.kill(child, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    os.waitpid(started(f"{folder}/{number}"), 0)
print("killed", killed)
"""


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.slow
def test_killed_at_any_moment_the_shards_are_the_same(clips, tmp_path):
    kills = int(os.environ.get("PREPARE_KILLS", 4))
    clips.to_pickle(tmp_path / "manifest.pickle")
    script = [sys.executable, "-c", KILLS, tmp_path / "manifest.pickle", tmp_path, kills]
    result = subprocess.run(list(map(str, script)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    expected = content(tmp_path / "whole")
    assert len(json.loads(expected["dataset.json"])["shards"]) == 9
    for number in range(kills):
        assert content(tmp_path / str(number)) == expected
        assert not list((tmp_path / str(number)).glob(".x-*")), "a part of a shard is left"
    # A machine may be so slow at times that some are through before their kill.
    assert int(result.stdout.split()[-1]) >= kills // 4


def test_a_full_disk_is_named_and_the_rest_goes_on_after_it(clips, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    options = {"name": "x", "shards": 5, "workers": 1, "progress": False}
    try:
        free = os.statvfs(small)
        (small / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - 2**14))
        with pytest.raises((UserError, OSError), match="(?i)no space left") as caught:
            prepare(clips, small, **options)
        assert str(small) in str(caught.value) and "\n" not in str(caught.value)
        assert not (small / "dataset.json").exists()
        (small / "filler").unlink()
        prepare(clips, small, **options)
        found = content(small)
    finally:
        subprocess.run(["umount", str(small)], check=True)
    prepare(clips, tmp_path / "whole", **options)
    assert found == content(tmp_path / "whole")
