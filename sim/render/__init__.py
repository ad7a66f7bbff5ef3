"""What cameras see, what is visible in it, and videos."""
