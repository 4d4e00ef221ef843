"""Writing the shards of a set with Apache Beam, on the workers of a cluster.

Workers must see the audio files and the output folder under the same paths (in a shared file system
or a store), and have keras_tune installed.
"""

import functools

from keras_tune.data.schema import REPORTS
from keras_tune.data.shards import finished_report, write_shard
from keras_tune.errors import UserError
from keras_tune.files import atomic_path
from keras_tune.storage import to_path

MANIFEST = "manifest.pickle"


def write_on_beam(manifest, tasks, settings, options=()):
    """Write shards on a Beam runner.

    Args:
        manifest: DataFrame, as for `keras_tune.data.write_shard`.
        tasks: List of triples: split, number of the shard, number of shards of the split.
        settings: `ShardSettings`.
        options: Beam's own options as on its command line, e.g. ["--runner=FlinkRunner",
            "--flink_master=localhost:8081"]. Defaults to the runner in this process.

    Returns:
        List of `ShardReport`, in the order of `tasks`.

    Raises:
        UserError: Beam is not installed, or the pipeline failed.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            "`runner` needs Apache Beam: pip install 'keras_tune[beam]'. Received: runner=beam"
        ) from error
    # One file for all workers, because a manifest is too large for a pipeline's description.
    file = to_path(settings.output) / REPORTS / MANIFEST
    with atomic_path(file) as temporary:
        manifest.to_pickle(temporary)
    try:
        with apache_beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
            _ = (
                pipeline
                | "shards" >> apache_beam.Create(tasks)
                | "distribute" >> apache_beam.Reshuffle()
                | "write" >> apache_beam.Map(write_one, str(file), settings)
            )
    except Exception as error:
        # Every runner has its own exceptions, which contain those of the workers as text.
        raise UserError(
            f"{settings.output}: the pipeline failed ({error}). Run again: it resumes where it "
            "stopped."
        ) from error
    file.unlink()
    return [finished_report(*task, settings) for task in tasks]


def write_one(task, file, settings):
    """Write one shard, given its task and the path of the manifest."""
    write_shard(_manifest(file), *task, settings)


@functools.lru_cache(maxsize=1)
def _manifest(file):
    import pandas as pd

    with to_path(file).open("rb") as content:
        return pd.read_pickle(content)
