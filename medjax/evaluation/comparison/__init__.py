"""Several systems on the same questions, and figures from papers, in one table."""
