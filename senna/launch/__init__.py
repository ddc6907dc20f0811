"""`senna launch`: from environment variables to a command on one process, many GPUs or many machines."""
