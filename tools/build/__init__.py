"""What is deployed: `sam build` for one architecture, the checks of what it made, and how large that is."""
