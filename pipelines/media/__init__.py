"""All reading and writing of pictures and video."""
