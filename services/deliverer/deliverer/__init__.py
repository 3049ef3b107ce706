"""The deliverer claims stored notifications, sends them and reports each outcome."""
