"""One forward pass, many questions: predictions, and pure functions of them; class activation maps."""
