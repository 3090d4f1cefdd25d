"""The kernel side starts ranks, sends configs and receives records; it never initialises MPI."""
