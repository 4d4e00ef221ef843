"""Searching the encoder's architecture and the training's settings with KerasTuner."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "hypermodel": ["Configuration", "TUNeHyperModel"],
        "oracles": ["TUNERS", "make_oracle"],
        "parameters": ["count_parameters", "largest_width"],
        "results": ["pareto_front", "scores_by_depth"],
        "space": ["Range", "Space"],
        "tail": ["tail_widths"],
        "job": ["Job"],
        "tuner": ["TUNeTuner"],
    },
)
