"""What was measured, where and by which code: the kinds of records and the files that hold them."""
