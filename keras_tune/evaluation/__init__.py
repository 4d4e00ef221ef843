"""Judging a representation: embeddings of whole clips, and probes on them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "baselines": ["BASELINES", "make_baselines"],
        "bootstrap": ["bootstrap_interval"],
        "embedding_cache": ["EmbeddingCache"],
        "embeddings": ["ClipEmbeddings", "cut_windows", "embed_clips", "tap_stages"],
        "embed_audio": ["embed", "embedding_model"],
        "folds": ["group_folds"],
        "judge": ["Fold", "Outcome", "judge"],
        "mel_statistics": ["MelStatistics"],
        "pooling": ["pool_clips"],
        "probe_stack": ["ProbeConfiguration", "ProbeStack"],
        "protocols": ["FittedProbe", "fit_probe"],
        "study": ["Study"],
        "tasks": ["make_task"],
        "train_probes": ["Schedule", "train_probes"],
        "untrained": ["untrained_copy"],
    },
)
