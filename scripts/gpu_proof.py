"""See `nrc.cli.gpu_proof`."""

from nrc.cli.gpu_proof import main

if __name__ == "__main__":
    main()
