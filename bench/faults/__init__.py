"""What may go wrong around a robot, each tried on a simulated one, and what it must do then."""
