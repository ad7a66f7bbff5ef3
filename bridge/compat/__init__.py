"""Wires of other projects, translated to ours."""
