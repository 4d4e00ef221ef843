"""Evaluating a representation: embeddings of whole clips, and probes trained on them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "baselines": ["BASELINES", "MelStatistics", "make_baselines", "untrained_copy"],
        "embed_audio": ["EmbeddedFiles", "embed", "embed_files"],
        "embedding_cache": ["EmbeddingCache"],
        "embeddings": ["ClipEmbeddings", "cut_windows", "embed_clips", "pool_clips"],
        "encoders": ["embedding_model", "load_encoder", "named_encoder", "tap_stages"],
        "outcomes": ["Fold", "Outcome", "evaluate", "group_folds"],
        "pretraining_probes": ["OnlineProbe", "final_probe", "final_probe_summary"],
        "probe_stack": ["ProbeConfiguration", "ProbeStack"],
        "probe_training": ["Schedule", "train_probes"],
        "protocols": ["FittedProbe", "fit_probe"],
        "study": ["Study"],
        "tasks": ["make_task"],
    },
)
