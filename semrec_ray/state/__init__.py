"""What is known of users: histories in, directions in the space and what to leave out of an answer out."""
