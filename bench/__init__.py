"""The proving ground: measurements, faults, endurance, walkers; only the front door imports it."""
