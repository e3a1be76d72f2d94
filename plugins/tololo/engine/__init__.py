"""How quanta run, and the record of each attempt."""
