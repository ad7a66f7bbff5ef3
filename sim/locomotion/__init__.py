"""Training of the walker: environment, rewards, PPO, curves."""
