"""ONNX Runtime for browsers, taken from npm and checked, to lie beside an exported page."""

import base64
import hashlib
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

from keras_tune.errors import UserError

PACKAGE = "onnxruntime-web@1.30.0"
# What the registry says of this version's archive; another archive is not unpacked.
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# The names that they get are of types that every file server knows.
FILES = {
    "package/dist/ort.wasm.bundle.min.mjs": "ort.js",
    "package/dist/ort-wasm-simd-threaded.wasm": "ort.wasm",
}
NOTICE = f"""\
{PACKAGE}, files {", ".join(FILES)}.
Copyright (c) Microsoft Corporation. Licensed under the MIT License.
https://github.com/microsoft/onnxruntime/blob/main/LICENSE
"""


def vendor_onnxruntime_web(folder):
    """Put the script and the WebAssembly of ONNX Runtime into a folder.

    npm fetches the package from its cache or its registry. Nothing of the package is run.

    Args:
        folder: `pathlib.Path`; made if it is missing.

    Raises:
        UserError: npm is not installed, cannot fetch the package, or fetched another one.

    Example:

    ```python
    vendor_onnxruntime_web(pathlib.Path("/tmp/onnxruntime"))
    ```
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            "--format web: takes ONNX Runtime from npm, which is not installed; install Node.js"
        )
    with tempfile.TemporaryDirectory() as temporary:
        done = subprocess.run(
            [npm, "pack", PACKAGE, "--ignore-scripts", "--loglevel=error"],
            cwd=temporary,
            env={**os.environ, "npm_config_update_notifier": "false"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        archives = list(pathlib.Path(temporary).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise UserError(f"--format web: npm cannot fetch {PACKAGE} ({lines[0]})")
        content = archives[0].read_bytes()
        if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
            raise UserError(f"--format web: what npm fetched is not the known {PACKAGE}")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archives[0]) as archive:
            for source, target in FILES.items():
                with archive.extractfile(source) as file:
                    (folder / target).write_bytes(file.read())
    (folder / "NOTICE.txt").write_text(NOTICE, encoding="utf-8")
