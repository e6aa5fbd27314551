"""How the tables came about, as `manage.py makemigrations` writes it."""
