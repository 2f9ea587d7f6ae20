"""The version of this software; a test holds it to that of the package."""

VERSION = "0.1.0"
