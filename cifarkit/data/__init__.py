"""Image data sets as arrays in memory: the table, the sources they come from, and their splits."""
