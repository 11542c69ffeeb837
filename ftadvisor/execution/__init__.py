"""The run itself: a plan becomes the libraries' own objects, which train."""
