"""Load and faults for as long as one likes, and then the question whether everything that was answered is true."""
