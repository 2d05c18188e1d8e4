"""Churn models as pure functions of tables and arrays: features in, probabilities, reasons and their quality out."""
