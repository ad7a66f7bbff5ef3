"""Japanese: its wordings, how it is typed, its names of colours, and the words that stop."""
