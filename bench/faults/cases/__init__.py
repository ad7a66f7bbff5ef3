"""The faults themselves: one file a group, each fault a function of a FaultTrial."""
