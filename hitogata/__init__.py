"""The front door: one command, and the only place that puts the rooms together."""

__version__ = "0.2.0"

try:
    from hitogata.environments import register_envs
except ImportError:  # a robot's onboard computer has no Gymnasium, and needs none
    pass
else:
    register_envs()
