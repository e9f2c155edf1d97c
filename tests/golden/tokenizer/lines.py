"""Lines of text that test a tokenizer: many languages, code, emoji, spaces, control tokens in text.

Random characters end at U+13000: what Unicode has added behind it lately are letters to some and not yet to others.
"""

import random

SENTENCES = """The quick brown fox jumps over the lazy dog.
I'm sure they'll say it's what we've DON'T I'D SHE'S y'all'd've
Der schnelle braune Fuchs springt über den faulen Hund. Straßenbahnübergänge
Le cœur a ses raisons que la raison ne connaît point. L'été, déjà-vu
El veloz murciélago hindú comía feliz cardillo y kiwi. ¿Qué? ¡Sí!
A rápida raposa marrom; coração, açúcar, informação
Szybki brązowy lis, zażółć gęślą jaźń
Příliš žluťoučký kůň úpěl ďábelské ódy
Быстрая коричневая лиса перепрыгивает через ленивую собаку
Україна має гарні краєвиди, їжа ґанок
Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί
快速的棕色狐狸跳过懒狗。今天天气很好,我们去公园吧!
素早い茶色の狐がのろまな犬を飛び越える。カタカナとひらがな
빠른 갈색 여우가 게으른 개를 뛰어넘는다. 안녕하세요
الثعلب البني السريع يقفز فوق الكلب الكسول ١٢٣
השועל החום המהיר קופץ מעל הכלב העצלן
तेज भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है १२३
দ্রুত বাদামী শিয়াল অলস কুকুরের উপর লাফ দেয়
สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ
Con cáo nâu nhanh nhẹn nhảy qua con chó lười biếng
Hızlı kahverengi tilki tembel köpeğin üstünden atlar İIıi
Nopea ruskea kettu hyppää laiskan koiran yli äöå
vulpes celeris fusca super canem pigrum salit
სწრაფი ყავისფერი მელა
Արագ շագանակագույն աղվեսը
விரைவான பழுப்பு நரி
ፈጣን ቡናማ ቀበሮ
𝕬𝖑𝖌𝖊𝖇𝖗𝖆 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﬁ ﬂ Ⅷ ½ ² ₃ ①
e\u0301 a\u0308 n\u0303 combining marks Z\u0351\u036b\u0343a\u0344l
def f(x):\n    return {"a": [1, 2.5e-3], 'b': x**2 != None}\n
fn main() { let v: Vec<u8> = b"abc".to_vec(); println!("{:?}", v[0..2].len()); }
for (int i=0;i<10;++i){a[i]+=b[i]<<2;}\t// comment\r\n\t\treturn 0x1F;
SELECT COUNT(*) FROM users WHERE name LIKE '%o\\'Brien%' AND id>=42;
<html><body class="a-b_c">&nbsp;&lt;x&gt;</body></html><!-- -->
https://example.org/path?q=1&b=%20#frag user@mail.com ~/file.tar.gz C:\\dir\\x
$x^2 + \\frac{1}{2} \\le \\sum_{i=0}^n$ ∑∫√≠≤∞ → ⇒ € £ ¥ ¢
1 12 123 1234 12345 123456789 3.14159 1,000,000 0x7f 1e10 ٣٤٥ ५६७
😀😃👍🏽👩‍👩‍👧‍👦🏳️‍🌈🇩🇪🇯🇵 ❤️ ☃ ✈️ 🤷🏻‍♀️
"quoted" 'single' «guillemets» „unten" “smart” ‘x’ — – … ‼ ⁇
a\u00a0b\u2003c\u3000d\u200be\u200df\ufeffg\u2028h\u0085i
!!! ??? ... ,,, ;;; --- ___ *** ### @@@ &&& %%% $$$ ((( ))) [[[ ]]] {{{ }}}
ABCdef GHIjkl mnoPQR XMLHttpRequest snake_case kebab-case camelCase SCREAMING
\U0001f9ff\U00020000\U0002a6df \ue000 \ufffd \u0378
\x01\x02\x1f\x7f"""
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\r\n", "\t", "\t\t", " \n", "\n ", "", "", " ", " "]


def pieces():
    sentences = [line.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r") for line in SENTENCES.split("\n")]
    return sentences, [word for line in sentences for word in line.split(" ") if word]


def lines(count, control, seed=1):
    """`count` lines; `control` are the texts of control tokens."""
    draw = random.Random(seed)
    sentences, words = pieces()
    characters = [c for c in "".join(sentences)]
    made = list(sentences)
    while len(made) < count:
        kind = draw.randrange(8)
        if kind == 0:
            made.append("".join(draw.choice(words) + draw.choice(SPACES) for _ in range(draw.randrange(1, 16))))
        elif kind == 1:
            made.append("".join(draw.choice(characters) for _ in range(draw.randrange(1, 24))))
        elif kind == 2:
            sentence = draw.choice(sentences)
            at = draw.randrange(len(sentence) + 1)
            made.append(sentence[at : at + draw.randrange(1, 60)])
        elif kind == 3:
            made.append(draw.choice(words) + " " * draw.randrange(40) + draw.choice(words) + "\n" * draw.randrange(8))
        elif kind == 4:
            made.append(draw.choice(words) + draw.choice(SPACES) + draw.choice(control) + draw.choice(SPACES) + draw.choice(sentences))
        elif kind == 5:
            made.append("".join(draw.choice([draw.choice(control), draw.choice(words)]) for _ in range(4)))
        elif kind == 6:
            code = chr(draw.choice([draw.randrange(32, 0x3000), draw.randrange(0x3000, 0xD800), draw.randrange(0xE000, 0x13000)]))
            made.append(draw.choice(words) + code * draw.randrange(1, 4) + draw.choice(words))
        else:
            made.append(draw.choice(sentences) + draw.choice(SPACES) + draw.choice(sentences))
    return made
