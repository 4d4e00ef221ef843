"""Train an encoder end to end on labels: the supervised baseline of a representation.

A linear head, or one with a hidden layer, is added to a pretrained or an untrained encoder and
trained on random crops; the encoder is trained as well or frozen. Training stops when the loss on
valid no longer falls. On test, predictions are averaged over consecutive windows. The output folder
gets tagger.keras, history.csv, report.json and config.yaml. A run that was stopped (SIGTERM,
Ctrl-C) or killed leaves the best epoch so far in tagger.keras, and continues with --resume.
"""

import dataclasses
import functools
import sys
from typing import ClassVar

from keras_tune.errors import UserError
from keras_tune.recipes._cli import print_compiling, run
from keras_tune.recipes._folder import write_report, writes
from keras_tune.recipes._options import names_options
from keras_tune.storage import local_output
from keras_tune.training import config as training_config


@dataclasses.dataclass
class FinetuneConfig(training_config.FinetuneConfig):
    """The run.

    Args:
        backend: tensorflow, jax or torch; by default KERAS_BACKEND, else the first one installed.
    """

    free_on_resume: ClassVar[tuple[str, ...]] = (
        *training_config.FinetuneConfig.free_on_resume,
        "backend",
    )

    backend: str | None = None


@names_options(columns="target", kind="task")
@writes("folder")
def main(config):
    """Run the command line; see `FinetuneConfig`."""
    from keras_tune.finetuning import FinetuningRun
    from keras_tune.training import NotFiniteError, StoppedError, stop_signals

    output = local_output(config.output)
    finetuning = FinetuningRun(config)
    finetuning.open()
    # Before the training, rather than when it is finished.
    finetuning.check_labels("test")
    finetuning.build()
    print_compiling()
    with stop_signals() as should_stop:
        try:
            finetuning.fit(should_stop)
        except NotFiniteError as error:
            raise UserError(
                f"{error}: use a smaller --learning_rate, or check the labels of the clips"
            ) from error
        except StoppedError as error:
            print(f"stopped: {error}; resume with --resume true")
            sys.exit(should_stop.status)
    finetuning.save_tagger()
    report = finetuning.report()
    write_report(output, config, splits=finetuning.dataset.info.fingerprints, **report)
    low, high = report["interval_95"]
    print(f"test {report['metric']}: {report['score']:.3f} [{low:.3f}, {high:.3f}]")
    print(f"report: {output / 'report.json'}")


cli = functools.partial(run, main, FinetuneConfig)

if __name__ == "__main__":
    cli()
