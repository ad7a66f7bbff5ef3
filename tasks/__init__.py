"""What is asked, how it is shown and how it is judged."""
