"""From the outside world to records: data files, config.json, the hub, measurement files."""
