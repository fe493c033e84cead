"""Behaviour in, better numbers out: what is popular today, the learned space later."""
