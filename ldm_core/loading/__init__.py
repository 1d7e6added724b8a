"""A model directory into the networks of a model."""
