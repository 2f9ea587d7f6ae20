"""`python -m fedaudio`"""

from fedaudio.cli import main

main()
