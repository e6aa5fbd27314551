"""Example workflows; README.md describes them and how to run them."""
