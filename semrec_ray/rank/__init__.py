"""Candidates in, an ordered slate out: arrays in, arrays out, no room imported."""
