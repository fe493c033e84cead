"""Entry points for `ray job submit --working-dir . -- python -m jobs.<name> …`.

Each parses its options, calls the package, prints progress, and last one JSON line.
"""
