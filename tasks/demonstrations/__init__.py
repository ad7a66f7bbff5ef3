"""Experts recorded and relabelled: the data sets that the policy imitates."""
