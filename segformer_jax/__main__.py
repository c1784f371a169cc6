"""`python -m segformer_jax` is the command `segformer-jax`."""

from segformer_jax.cli import main

if __name__ == "__main__":
    main()
