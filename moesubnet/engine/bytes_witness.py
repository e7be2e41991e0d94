"""Whether we read texts as a tokenizer does, tried on those that tokenizers disagree about."""

from __future__ import annotations

from tokenizers import Tokenizer

from moesubnet.engine.bytes_borders import Borders
from moesubnet.engine.bytes_cover import Cover
from moesubnet.engine.bytes_lexicon import Lexicon
from moesubnet.errors import EngineError

WITNESSES = (
    "The quick brown fox, she said, didn't jump over it's lazy dogs' tails; they'll've known!",
    "I'M you'RE 'tis x''ll 'S don'T we'd'a \"'s\"",
    "one  two   three    four\tfive\t\tsix \t seven  \n eight\n\nnine \n\n\n ten\r\n\r\neleven ",
    "1 12 123 1234 12345 123456 1234567 12345678901 3.14 1,000 0x1F a1b22c333 ٣٤٥٦ ½ ²³",
    "def f(x):\n    if x>=10:\n\t\treturn {'a': [1,2], \"b\": None}  # TODO\n\n\nprint(f(10))\n",
    "camelCase HTTPServer snake_case_name kebab-case a/b\\c foo::bar->baz() === != //\n/// */",
    "naïve café Ångström ß ﬁn Ελληνικά русский текст עברית العربية हिन्दी ภาษาไทย",
    "世界你好。日本語のテキスト、カタカナ 한국어 문장입니다。",
    "😀😀 👩\u200d👩\u200d👧 🏳️\u200d🌈 🇩🇪 e\u0301\u0323 a\u0308 \u200b\u00a0x\u2003y\u2028z",
    "a  b   \u00a0 c … “quoted” ‘single’ – — • ™ © ½ €100 £5",
    "\x00\x01\x7f control \x1b[0m",
    "   leading and trailing   ",
    "\n\n  \n",
    "!!!??? ... --- ### *** <b>bold</b> &amp; <|x [/y] {{z}}",
)


def check_reading(tokenizer: Tokenizer, lexicon: Lexicon, borders: Borders) -> None:
    """Raises EngineError where every way to write a witness that we know lacks the tokenizer's."""
    for text in WITNESSES:
        if lexicon.lead and text.startswith(" "):
            continue  # some write that space and the one they put before as one
        if (wrong := _differs(text, tokenizer, lexicon, borders)) is not None:
            raise EngineError(
                f"this tokenizer cannot serve bytes: it writes {text!r} in a way that is not "
                f"understood from {wrong!r} on"
            )


def _differs(text: str, tokenizer: Tokenizer, lexicon: Lexicon, borders: Borders) -> str | None:
    """Where ours goes another way, with what stands there; None if nowhere."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if {*ids} & tokenizer.get_added_tokens_decoder().keys() - lexicon.bytes_of.keys():
        return None  # one of its control tokens stands in it
    cover = Cover(lexicon, borders, lexicon.lead)
    raw = text.encode()
    for at, byte in enumerate(raw):
        if not cover.push(byte):
            return raw[max(0, at - 3) :].decode(errors="replace")[:16]
    path: tuple[int, ...] = ()
    at = 0
    for token in ids:
        path, at = (*path, token), at + len(lexicon.bytes_of.get(token, b""))
        if all(tuple(node.path()) != path for node in cover.nodes(at)):
            return raw[max(0, at - len(lexicon.lead) - 3) :].decode(errors="replace")[:16]
    return None
