"""What a command does from beginning to end: data, training, figures, and the run that records them."""
