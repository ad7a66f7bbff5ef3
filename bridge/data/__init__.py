"""Data sets of demonstrations in the LeRobot v3 layout, and their statistics."""
