"""The cost model: predictions from block profiles and message prices."""
