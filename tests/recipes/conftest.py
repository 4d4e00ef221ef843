from audio_files import bad_files, clips  # noqa: F401
