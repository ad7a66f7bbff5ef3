"""The Unitree G1: its facts, its walker, its gait and how it gets up."""
