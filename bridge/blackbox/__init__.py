"""What a robot's computer keeps of its last minutes, so that a fall can be explained."""
