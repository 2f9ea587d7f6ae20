"""What a device and the coordinator must agree on."""
