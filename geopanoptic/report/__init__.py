"""Pieces of HTML reports: self-contained fragments that several pages share."""
