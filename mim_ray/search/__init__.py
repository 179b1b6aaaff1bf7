"""A question about a method's settings, put to a cluster: trials by turns, judged at rungs, remembered."""
