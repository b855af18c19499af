"""Training over virtual workers, hosted by MPI ranks."""
