"""Published checks: whoever writes a backend of Skep runs these against it."""
