"""What a browser would find in a piece of HTML: tags, attributes, texts, rows of tables."""

from html.parser import HTMLParser

VOID = {"br", "img", "meta"}


class Html(HTMLParser):
    """The tags, texts and table rows of a page; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.rows, self.pairs = [], set(), [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def attributes(self, name):
        return [value for key, value in self.pairs if key == name]

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.pairs += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open[-1:] and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)
