"""See `nrc.cli.docs`."""

from nrc.cli.docs import main

if __name__ == "__main__":
    main()
