"""What is run for each table and figure, and what came out."""
