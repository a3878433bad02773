"""Dataset distillation: schemes and matchers."""
