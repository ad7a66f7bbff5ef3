"""The loop of 50 Hz: chunks played out, the safety ladder, the link to the policy."""
