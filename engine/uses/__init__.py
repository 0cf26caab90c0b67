"""What semantic bases are for on one model: four questions, measured beside their controls."""
