"""What tests are written with, and is no test: imported as `from _support import rules`."""
