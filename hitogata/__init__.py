"""The front door: one command, and the only place that puts the rooms together."""

__version__ = "0.2.0"
