"""Where computation runs and in which precision: meshes, sharding rules, dtypes."""
