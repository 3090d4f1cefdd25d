"""How ranks exchange: communicators, all-reduces, and the watch over ranks that wait."""
