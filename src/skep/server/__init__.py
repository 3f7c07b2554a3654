"""The server's door: HTTP and WebSocket in front of the hub."""
