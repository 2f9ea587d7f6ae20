"""What the listener tells, handed on: over HTTP and WebSockets, to a command, to an MQTT broker."""
