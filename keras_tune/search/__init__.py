"""Searching the encoder's architecture and the training's settings with KerasTuner."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "hypermodel": ["Configuration", "TUNeHyperModel"],
        "job": ["Job"],
        "results": ["draw_depths", "draw_pareto", "pareto_front", "scores_by_depth", "trial_table"],
        "space": ["Range", "Space"],
        "tuner": ["TUNERS", "TUNeTuner", "make_oracle"],
    },
)
