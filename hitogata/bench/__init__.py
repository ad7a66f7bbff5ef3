"""The commands of `hitogata bench`: what is measured, and what is promised of it."""
