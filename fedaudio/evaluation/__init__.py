"""`fedaudio model evaluate`: a release, tried on clips and on continuous sound."""
