"""What is computed about a model: an analysis takes a built model and data, and draws nothing."""
