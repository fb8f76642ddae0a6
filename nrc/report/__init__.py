"""Scorecard of the papers' claims, and the HTML report. Reads run directories and figures, never a model."""
