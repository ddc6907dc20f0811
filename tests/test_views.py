import subprocess
import sys

from senna.views import VIEWS, image_block


def test_the_image_block_is_the_six_view_prompt():
    assert image_block() == (
        "<FRONT VIEW>:\n<image>\n<FRONT LEFT VIEW>:\n<image>\n<FRONT RIGHT VIEW>:\n<image>\n"
        "<BACK LEFT VIEW>:\n<image>\n<BACK RIGHT VIEW>:\n<image>\n<BACK VIEW>:\n<image>\n"
    )
    assert image_block(VIEWS[:1]) == "<FRONT VIEW>:\n<image>\n"


def test_records_and_views_import_no_torch():
    code = "import sys, senna.records, senna.views; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
