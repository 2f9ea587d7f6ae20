"""What devices that attack do in place of honest work. One small file each."""
