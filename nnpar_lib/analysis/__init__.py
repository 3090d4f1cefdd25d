"""Pure functions from frames of records to frames and axes; they know neither MPI nor notebooks."""
