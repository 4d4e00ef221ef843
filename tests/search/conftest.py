import pathlib
import sys

# For the processes of isolated trials, which import the streams by name.
sys.path.insert(0, str(pathlib.Path(__file__).parent))
