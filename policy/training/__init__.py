"""Imitation of demonstrations: batches, losses, the trainer, checkpoints."""
