"""What the tests of several folders share: workers, a broker, nodes, definitions and invariants."""
