"""Keys, rights, rates and quotas."""
