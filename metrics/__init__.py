"""What can be measured of pictures and clips. torch only, so that nodes, trainer and evaluation may all import it."""
