"""Applications: the measurements that are made for the report, and their order."""
