"""What makes CPUs and GPUs fast, behind names that say what is computed."""
