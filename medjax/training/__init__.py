"""How models learn: optimizer, step, loop. Built on models; evaluation comes after it."""
