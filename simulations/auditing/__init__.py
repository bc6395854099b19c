"""An update that somebody saved, without any run: looked at, attacked, told."""
