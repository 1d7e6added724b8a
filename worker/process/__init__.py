"""How processes start, restart and end."""
