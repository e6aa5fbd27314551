"""What the engine adds to `manage.py`, in `commands`."""
