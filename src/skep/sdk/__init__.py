"""What a user writes in Python or YAML, and how it runs embedded."""
