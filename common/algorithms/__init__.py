"""What federated algorithms change of a round, on a device and at the coordinator. One small file each."""
