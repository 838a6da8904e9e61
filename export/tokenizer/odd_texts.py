"""Texts that tokenizers are apt to treat differently, for comparing two of them."""

from collections.abc import Iterable, Iterator

_PIECES = (
    # Plain words, cases, accents, contractions
    *(
        "Hello world",
        "the cat sat",
        "ÉLAN vital",
        "naïve café",
        "IJsselmeer STRASSE straße",
        "İstanbul ı",
    ),
    *("don't we'll I'd CAN'T", "e.g. U.S.A. 3.14, 1,000", "co-operate x_y", "ﬁ ﬂ ½ ² ™ Å"),
    # Digits, maths, code
    *("1234567890", "3 + 4 = 7", "∑ᵢ xᵢ² ≤ ∞", "٣٤٥ १२३", "if (a != b) { return x->y[0]; }"),
    *(
        'print(f"{x!r}")',
        "a\tb\tc",
        "    indented",
        "<b>html</b> &amp; #tag @user",
        "http://a.b/c?d=e&f",
    ),
    # Scripts
    *("Привет, МИР", "Ελληνικά ΣΑΣ", "日本語のテキスト", "中文汉字", "한국어 문장", "ไทยไม่เว้นวรรค"),
    *("שלום עולם", "مرحبا بالعالم", "हिन्दी भाषा", "தமிழ்", "漢", "𠀀𝕏𐍈", "ᚠᛇᚻ"),
    # Emoji, joined and with modifiers
    *("😀", "👩‍👩‍👧‍👦 👍🏽", "🇫🇷🇩🇪", "❤️ ✈︎", "text😀text"),
    # Combining, zero-width, directions, controls
    *(
        "e\u0301 a\u0308o\u0323\u0302",
        "\u0301",
        "a\u200bb\u200cc\u200dd\u2060e",
        "\u200e\u202eabc\u202c",
    ),
    *("\ufeffabc", "a\ufeffb", "a\x00b", "\x07\x1b[0m\x7f", "\ufffd\ufffe", "a\u00adb", "\ue000"),
    # Blanks and line ends
    *("a\r\nb\r\n", "a\nb\n\nc", "a  b   c", "a\u00a0b\u3000c\u2003d", "a\x0bb\x0cc\x85d\u2028e"),
    # Look like pieces or special tokens
    *("▁a ▁▁b", "Ġa Ċ", "##ing", "<0x41>", "[MASK]", "<s>", "</s>", "<|im_end|>", "<unk>", "``a''"),
    *("!!!...???", "--- *** ___", "\"'`´’“”«»", "a" * 300, "ab " * 100),
)
_AROUND = ("{}", " {} ", "\n{}\n", "  {}, and {}")
_BLANKS = ("", " ", "  ", "   ", "\n", "\r\n", "\t", "\n\n\n ", "\u200b", "\u00a0", "\u3000")


def odd_texts() -> list[str]:
    """Lists some hundred texts, none of them longer than 700 characters."""
    return [*_BLANKS, *(around.replace("{}", piece) for piece in _PIECES for around in _AROUND)]


def around_tokens(tokens: Iterable[str]) -> Iterator[str]:
    """Puts each token into texts: alone, within a word, behind a blank and twice."""
    for token in tokens:
        yield from (token, f"a{token}b", f"a {token} b", f"{token}{token}\n")
