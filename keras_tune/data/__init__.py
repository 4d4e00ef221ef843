"""Audio data: manifests, shards of TFRecords, and `open_dataset`, which reads them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["datasets"],
    submod_attrs={
        "audio": ["AudioError", "load_audio"],
        "crop_stream": ["array_clips"],
        "dataset": [
            "AudioDataset",
            "BatchOptions",
            "open_dataset",
            "read_clips",
            "read_records",
        ],
        "datasets": ["manifest_for"],
        "demo": ["demo_clips", "save_demo", "write_demo"],
        "preparation": ["prepare"],
        "resident_clips": ["ResidentClips"],
        "schema": ["DatasetInfo", "LabelColumn"],
        "shard_dataset": ["find_damaged_shards", "naming_damaged_shards"],
        "shards": ["ShardSettings", "write_shard"],
    },
)
