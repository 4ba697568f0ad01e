"""What the step function ``github`` does: finds out on GitHub what the loop github-delivery must know, and merges."""
