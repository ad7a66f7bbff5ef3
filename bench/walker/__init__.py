"""Walkers, ours and others', examined under the same commands and pushes."""
