"""The kernel side: starts ranks, hands configs in and takes records out; it never initialises
MPI."""
