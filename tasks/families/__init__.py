"""A file a family of tasks, its words beside it; none knows another."""
