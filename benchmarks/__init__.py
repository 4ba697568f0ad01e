"""What the loop runner costs, measured: commands whose results are kept in results/."""
