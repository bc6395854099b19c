"""Privacy attacks, defences and measurements for federated learning; no Flower and no Ray in here."""

__version__ = "0.1.0"
