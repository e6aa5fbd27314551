"""Example workflows; README.md says what they show and how to run them."""
