"""The mind: a vision-language-action policy, its training, its export and its runtime."""
