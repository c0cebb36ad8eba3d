"""The pieces of the model card, a file for each section, and what keeps sections that were edited by hand."""
