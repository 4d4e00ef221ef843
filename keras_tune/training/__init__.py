"""Contrastive pretraining: runs that can be resumed, the model, optimizers and callbacks.

`pretrain` and `PretrainingRun` do what `keras-tune pretrain` does. `ContrastiveModel` is a Keras
model that you can `fit` yourself.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "building": ["build_model", "build_optimizer", "save_encoder"],
        "callbacks": [
            "BestEpoch",
            "HistoryFile",
            "Checkpoint",
            "EpochSeed",
            "KeepBest",
            "NotFiniteError",
            "StoppedError",
            "TimeLeft",
            "stop_signals",
        ],
        "config": ["FinetuneConfig", "ModelConfig", "PretrainConfig"],
        "contrastive_model": ["ContrastiveModel"],
        "distillation": ["distill"],
        "optimizers": ["LARS", "AdamW"],
        "pretraining": ["PretrainingRun", "pretrain"],
        "representation_monitor": [
            "RepresentationMonitor",
            "effective_rank",
            "pretext_accuracy",
        ],
        "run_folder": ["Progress", "load_checkpoint"],
        "streams": ["PretrainingData", "Streams"],
    },
)
