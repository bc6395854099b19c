"""Everything that speaks Flower: records, strategies, client handlers, mods."""
