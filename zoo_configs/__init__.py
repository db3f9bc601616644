"""The zoo's configurations, one YAML file an algorithm; era_rl.sb3.run_settings reads them."""
