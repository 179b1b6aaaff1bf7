"""One file per question: METHOD, SPACE (dotted path -> tune domain), GOAL."""
