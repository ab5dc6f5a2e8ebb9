"""What a video network's training is: objective, networks and encoders, validation."""
