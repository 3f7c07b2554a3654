"""The loops that keep an engine going: one a file, all of one shape."""
