"""See `nrc.cli.bench`."""

from nrc.cli.bench import main

if __name__ == "__main__":
    main()
