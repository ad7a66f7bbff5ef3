"""Bodies, whatever they are made of: neither MuJoCo nor torch."""
