"""Console pages of billing, one module per subject. They do not import each other."""
