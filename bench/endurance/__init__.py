"""What server and robot outlast: mutated messages, many clients, half an hour of faults."""
