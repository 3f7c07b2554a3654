"""One door to everything, by nouns."""
