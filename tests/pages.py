"""Pages as tests look at them."""

import base64
import io
from html.parser import HTMLParser

from PIL import Image


class Page(HTMLParser):
    """Its words, its pictures, and whatever it would fetch from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.words, self.pictures, self.elsewhere, self.tags = [], [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("src", "href") and value.startswith("data:image/jpeg;base64,"):
                self.pictures.append(Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2]))))
            elif name in ("src", "href"):
                self.elsewhere.append(value)

    def handle_data(self, data):
        self.words.append(data)
