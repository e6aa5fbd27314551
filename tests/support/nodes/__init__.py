"""Nodes for the tests: some record what they did, some break or wait on a test's order."""
