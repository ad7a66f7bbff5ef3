"""Who commands a robot, stops and watches it: messages, the robot's port, the operator's client."""
