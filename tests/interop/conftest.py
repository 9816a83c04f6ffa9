import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # these tests share files of their own
