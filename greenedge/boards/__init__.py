"""Boards on a cable and boards in simulation: program them, run models on them, test them."""
