"""Judging a representation: embeddings of whole clips, and probes on them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bootstrap": ["bootstrap_interval"],
        "embeddings": ["ClipEmbeddings", "cut_windows", "embed_clips"],
        "logistic_probe": ["ProbeResult", "logistic_probe"],
        "untrained": ["untrained_copy"],
    },
)
