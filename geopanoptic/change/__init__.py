"""Change between two dates: what became of every object and every class."""
