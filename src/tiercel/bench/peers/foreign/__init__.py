"""Scripts that run in other programs' interpreters, by path: they import nothing of Tiercel, and Tiercel nothing of them."""
