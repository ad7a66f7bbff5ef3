"""What sentences mean: grammars, intents, a parser."""
