"""MuJoCo: scenes, worlds and their pictures, environments, the walker's training."""
