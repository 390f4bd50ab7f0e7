"""Write pages, tables and pictures of studies, scaling laws and inspected runs."""
