"""The zoo's configurations, one YAML file an algorithm; era_rl.zoo.config reads them."""
