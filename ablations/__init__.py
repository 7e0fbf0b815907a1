"""Experiments behind the tables and figures: `studies` defines them, `engine` runs them."""
