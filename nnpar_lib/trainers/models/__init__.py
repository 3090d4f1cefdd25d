"""The networks, their layers, and how a layer is split over ranks."""
