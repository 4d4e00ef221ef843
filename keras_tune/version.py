"""The version of the package, which is written here alone."""

__version__ = "0.1.0"
