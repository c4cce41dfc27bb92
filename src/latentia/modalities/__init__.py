"""Kinds of data, each in a folder of its own; `registry` finds them, and importing this package loads none."""
