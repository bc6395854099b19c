"""An app as Flower's template has it, with one line more in each half."""
