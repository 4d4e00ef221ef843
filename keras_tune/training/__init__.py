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
            "Checkpoint",
            "EpochSeed",
            "KeepBest",
            "NotFiniteError",
            "StoppedError",
            "TimeLeft",
        ],
        "config": ["FinetuneConfig", "ModelConfig", "PretrainConfig"],
        "contrastive_model": ["ContrastiveModel"],
        "distillation": ["distill"],
        "optimizers": ["LARS", "AdamW"],
        "pretraining": ["PretrainingRun", "pretrain"],
        "process": ["stop_signals"],
        "progress": ["Progress", "load_checkpoint"],
        "representation_monitor": [
            "RepresentationMonitor",
            "effective_rank",
            "pretext_accuracy",
        ],
        "streams": ["PretrainingData", "Streams"],
    },
)
