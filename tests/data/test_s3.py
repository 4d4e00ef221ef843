"""A set on an S3 server on this machine, by way of tensorflow-io's plug-in.

All that loads the plug-in runs in processes of its own: it aborts every process it was used in.
"""

import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from keras_tune.data import prepare

pytestmark = pytest.mark.one_backend

for package in ("tensorflow_io", "moto", "boto3"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}", allow_module_level=True)

READER = """
import json, sys
from keras_tune.data import (
    DatasetInfo, find_damaged_shards, manifest_for, open_dataset, prepare, read_clips, read_records
)
from keras_tune.storage import to_path
from keras_tune.errors import UserError
from keras_tune.recipes import _cli
from keras_tune.recipes.prepare import PrepareConfig

url, local, shard = sys.argv[1:]

def error_of(function, *arguments, **options):
    try:
        return function(*arguments, **options)
    except UserError as error:
        return str(error)

def main(config):
    same = {"info": DatasetInfo.load(url) == DatasetInfo.load(local)}
    options = dict(clip_samples=100, crops=2, batch_size=4, seed=1, labels=True)
    for a, b in zip(read_clips(url, **options), read_clips(local, **options)):
        for name, key in (("clips", "audio"), ("labels", "labels")):
            same[name] = same.get(name, True) and bool((a[key] == b[key]).numpy().all())
    for a, b in zip(read_records(url, "test"), read_records(local, "test"), strict=True):
        same["audio"] = same.get("audio", True) and bool((a["audio"] == b["audio"]).all())
    folder = manifest_for("folder", "s3://bucket/audio")
    found = {"same": same, "undamaged": find_damaged_shards(url), "clips": len(folder)}
    to_path(shard).unlink()
    found["removed"] = find_damaged_shards(url)
    quiet = dict(workers=1, progress=False)
    found["errors"] = [
        error_of(DatasetInfo.load, url),
        error_of(DatasetInfo.load, "s3://bucket/nothing"),
        error_of(DatasetInfo.load, "s3://missing/x"),
        error_of(manifest_for, "csv", "s3://missing/tracks.csv"),
        error_of(prepare, folder, "s3://missing/x", **quiet),
        error_of(prepare, folder, "s3://locked/x", **quiet),
    ]
    prepare(folder.iloc[:2], "s3://bucket", shards=1, **quiet)
    found["root"] = DatasetInfo.load("s3://bucket").name
    print(json.dumps(found), flush=True)
    raise UserError("the end")

_cli.run(main, PrepareConfig, ["--dataset=csv", "--source=x", "--output=y"])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The client of a server that processes find by their environment, and this."""
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Whatever is configured on this machine must not be what is reached.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS", "S3"))}
    environment = own | {
        # The scheme counts: the plug-in does not know S3_USE_HTTPS any more.
        "S3_ENDPOINT": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = open(tmp_path_factory.mktemp("server") / "log", "w")
    process = subprocess.Popen(command, env=own, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/")
                break
            except urllib.error.URLError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
        client = boto3.client(
            "s3",
            endpoint_url=environment["S3_ENDPOINT"],
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        for bucket in ("bucket", "locked"):
            client.create_bucket(Bucket=bucket)
        statement = {
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:PutObject",
            "Resource": "arn:aws:s3:::locked/*",
        }
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        client.put_bucket_policy(Bucket="locked", Policy=json.dumps(policy))
        yield client, environment
    finally:
        process.kill()
        process.wait()
        log.close()


def run(environment, *command):
    return subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True
    )


def without_stamps(name, content):
    """A file's bytes; of a shard's report what there is beside the times of the audio files."""
    if not name.startswith(".prepare/x-"):
        return content
    report = json.loads(content)
    assert set(report.pop("stamps")) == {
        *report["ids"],
        *(entry["id"] for entry in report["failed"]),
    }
    return report


def test_a_set_on_s3(server, clips, tmp_path):
    client, environment = server
    options = {"name": "x", "shards": 3}
    local = tmp_path / "x"
    prepare(clips, local, workers=1, progress=False, **options)

    # Audio and its table are there, too; one clip lies elsewhere.
    table = clips.copy()
    for number, path in enumerate(clips["path"]):
        name = pathlib.Path(path).name
        client.upload_file(path, "bucket", f"audio/{name}")
        table.loc[number, "path"] = f"audio/{name}"
    table.loc[3, "path"] = clips["path"][3]
    table.to_csv(tmp_path / "tracks.csv", index=False)
    client.upload_file(str(tmp_path / "tracks.csv"), "bucket", "tracks.csv")
    command = ["-m", "keras_tune.recipes.prepare", "--dataset=csv", "--name=x", "--shards=3"]
    command += ["--source=s3://bucket/tracks.csv", "--output=s3://bucket/sets/x", "--workers=2"]
    command += ["--label_columns=[letter,half]", "--min_seconds=0"]
    written = run(environment, *command)
    assert written.returncode == 0, written.stderr
    assert "pure virtual" not in written.stderr
    listed = client.list_objects_v2(Bucket="bucket", Prefix="sets/x/")["Contents"]
    names = {entry["Key"].removeprefix("sets/x/") for entry in listed}
    files = [path for path in local.rglob("*") if path.is_file()]
    assert names == {path.relative_to(local).as_posix() for path in files}
    for path in files:
        if path.name != "settings.json":
            name = path.relative_to(local).as_posix()
            stored = client.get_object(Bucket="bucket", Key=f"sets/x/{name}")["Body"].read()
            assert without_stamps(name, stored) == without_stamps(name, path.read_bytes()), name

    shard = "s3://bucket/sets/x/x-train-00001-of-00003.tfrecord"
    read = run(environment, "-c", READER, "s3://bucket/sets/x", local, shard)
    assert read.returncode == 1 and read.stderr.endswith(": error: the end\n"), read.stderr
    found = json.loads(read.stdout.splitlines()[-1])
    same = {"info": True, "clips": True, "labels": True, "audio": True}
    assert found["same"] == same
    assert found["undamaged"] == [] and found["clips"] == 14 and found["root"] == "bucket"
    assert found["removed"] == [[shard, "the shard is missing"]]
    removed, nothing, *missing, locked = found["errors"]
    assert removed.startswith(f"{shard}: the shard is missing")
    assert nothing.startswith("s3://bucket/nothing: no such folder")
    for error, path in zip(missing, ("x", "tracks.csv", "x"), strict=True):
        assert error.startswith(f"s3://missing/{path}") and "no such object or bucket" in error
    assert locked.startswith("s3://locked/x") and "no permission" in locked
    assert not any("\n" in error for error in found["errors"])
