"""Measurements: correctness first, then time; a table for people, last a JSON line, kept in results/."""
