"""Audio data: manifests, shards of TFRecords, and what reads them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["datasets"],
    submod_attrs={
        "arrays": ["array_clips", "load_arrays"],
        "audio": ["AudioError", "load_audio"],
        "damage": ["find_damaged_shards", "naming_damaged_shards"],
        "datasets": ["manifest_for"],
        "demo": ["demo_clips", "save_demo", "write_demo"],
        "preparation": ["prepare"],
        "read": ["count_clips", "read_clips"],
        "records": ["load_info", "read_records"],
        "resident": ["ResidentClips"],
        "schema": ["DatasetInfo", "LabelColumn"],
        "shards": ["ShardSettings", "write_shard"],
    },
)
