"""Exporting models: folded, as SavedModels for TensorFlow Serving, as ONNX files, as a web page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "folding": ["fold_batch_norm"],
        "onnx_export": ["export_onnx", "export_onnx_head"],
        "saved_model": ["export_saved_model"],
        "tf_serving": ["export_tf_serving"],
        "web_page": ["ExportedPage", "export_web"],
    },
)
