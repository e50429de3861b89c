package bpe

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

// Each is what Python's ftfy.fix_text, html.unescape or str.lower makes of it.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"  A\tB\n\nC  ":            "a b c",
		"ΣΊΣΥΦΟΣ ΟΔΟΣ. Σ ΑΣ'Α":     "σίσυφος οδος. σ ασ'α",
		"İstanbul":                 "i\u0307stanbul",
		"schÃ¶n":                   "schön",
		"âœ” No problems":          "✔ no problems",
		"P&EACUTE;REZ &amp;amp;":   "pérez &",
		"<b>&amp;lt;&amp;amp;amp;": "<b><&amp;",
		"<b>&EACUTE;</b>":          "<b>&eacute;</b>",
		"&notit; &ampx &#x80;":     "¬it; &x €",
		"&#xD800;&#1;&#65":         "\ufffda",
		"“curly” ‘quotes’":         `"curly" 'quotes'`,
		"ﬁne ＬＯＵＤ　ｶﾞ":              "fine loud ガ",
		"e\u0301\u200b\ufeff\x07":  "é\u200b",
		"\x1b[1;31mred\x1b[0m":     "red",
		"a\u0085b\u2028c\r\nd":     "a…b c d",
		"voilÃ  le travail":        "voilà le travail",
		"â€œlossyâ€\ufffd":         `"lossy` + "\ufffd",
		"":                         "",
		"\xff\xfe":                 "\ufffd",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestWords(t *testing.T) {
	for in, want := range map[string][]string{
		"it's we'll 'sup":     {"it", "'s", "we", "'ll", "'s", "up"},
		`"'s 12a`:             {`"'`, "s", "1", "2", "a"},
		"don'ſ":               {"don", "'ſ"},
		"<end_of_text>!":      {"<end_of_text>", "!"},
		"<ſtart_of_text> a_b": {"<ſtart_of_text>", "a", "_", "b"},
		"x\u0345y":            {"x", "y"},
		"½²३":                 {"½", "²", "३"},
		"日本語🙂👍🏽 е\u0301":      {"日本語", "🙂👍🏽", "е", "\u0301"},
	} {
		var got []string
		for s := in; s != ""; {
			n, skip := firstWord(s)
			if !skip {
				got = append(got, s[:n])
			}
			s = s[n:]
		}
		if !slices.Equal(got, want) {
			t.Errorf("words of %q are %q, want %q", in, got, want)
		}
	}
}

// suspicious may only say no where badness says no.
func TestSuspiciousIsNecessary(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var chars []rune
	for _, class := range categories {
		for r := range runesOf(class) {
			chars = append(chars, r)
		}
	}
	chars = append(chars, []rune("aZ .,?!_9ŒœÂÃЂВГРС†àá\u0300漢")...)
	slices.Sort(chars)
	hits := 0
	for range 100_000 {
		s := make([]rune, 1+rng.IntN(5))
		for i := range s {
			s[i] = chars[rng.IntN(len(chars))]
		}
		if badness().MatchString(string(s)) {
			hits++
			if !suspicious(string(s)) {
				t.Fatalf("%q is bad and not suspicious", string(s))
			}
		}
	}
	if hits < 1000 {
		t.Errorf("only %d bad strings: the test shows nothing", hits)
	}
}

func TestTokens(t *testing.T) {
	tok := New()
	long := strings.Repeat("cat ", 100)
	for _, tt := range []struct {
		text    string
		context int
		want    []int32
	}{
		{"a cat", 6, []int32{Start, 320, 2368, End, 0, 0}},
		{"a cat", 4, []int32{Start, 320, 2368, End}},
		{"a cat", 3, []int32{Start, 320, End}},
		{"a cat", 2, []int32{Start, End}},
		{"", 3, []int32{Start, End, 0}},
		{long, 4, []int32{Start, 2368, 2368, End}},
	} {
		got := slices.Repeat([]int32{-1}, tt.context+1)
		tok.Tokens(got, tt.text, tt.context)
		if !slices.Equal(got[:tt.context], tt.want) || got[tt.context] != -1 {
			t.Errorf("Tokens(%.20q, %d) = %v, want %v and nothing beyond", tt.text, tt.context, got, tt.want)
		}
	}
	if n := len(tok.Encode(long)); n != 102 {
		t.Errorf("Encode cut a text of 100 words to %d ids", n)
	}
}

// Any bytes give ids of the vocabulary, the same from every goroutine.
func TestAnyBytes(t *testing.T) {
	tok := New()
	rng := rand.New(rand.NewPCG(2, 2))
	var wg sync.WaitGroup
	for range 2000 {
		b := make([]byte, rng.IntN(60))
		for i := range b {
			b[i] = byte(rng.IntN(256))
			if rng.IntN(3) == 0 {
				b[i] = "&#;<'Ã\x1b[ "[rng.IntN(9)]
			}
		}
		want := tok.Encode(string(b))
		for _, id := range want {
			if id < 0 || id >= VocabSize {
				t.Fatalf("%q has id %d", b, id)
			}
		}
		if clean := clean(string(b)); !utf8.ValidString(clean) {
			t.Fatalf("clean(%q) is not UTF-8", b)
		}
		wg.Go(func() {
			if got := tok.Encode(string(b)); !slices.Equal(got, want) {
				t.Errorf("%q: %v, then %v", b, want, got)
			}
		})
	}
	wg.Wait()
}

func TestLongWords(t *testing.T) {
	v := load()
	rng := rand.New(rand.NewPCG(3, 3))
	for range 200 {
		ids := make([]int32, 1+rng.IntN(300))
		letters := 1 + rng.IntN(26)
		for i := range ids {
			ids[i] = v.bytes['a'+rng.IntN(letters)]
		}
		ids[len(ids)-1] += 256
		want := v.merge(slices.Clone(ids))
		if got := v.mergeLong(slices.Clone(ids)); !slices.Equal(got, want) {
			t.Fatalf("%v: mergeLong %v, merge %v", ids, got, want)
		}
	}
	// A word as long as a document takes no time.
	b := make([]byte, 200_000)
	for i := range b {
		b[i] = byte('a' + rng.IntN(26))
	}
	if n := len(New().Encode(string(b))); n < 50_000 {
		t.Errorf("%d ids", n)
	}
}

// What fixable passes over is what the steps leave alone.
func TestFixableIsNecessary(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	special := []rune("&\x1b\r\u0085\u2028ﬁ’“Ａ　\u0301e\ufeffÃ©é—漢🙂")
	skipped := 0
	for range 100_000 {
		in := make([]rune, 1+rng.IntN(6))
		for i := range in {
			switch rng.IntN(3) {
			case 0:
				in[i] = special[rng.IntN(len(special))]
			case 1:
				in[i] = rune(rng.IntN(0x3000))
			default:
				in[i] = rune(' ' + rng.IntN(90))
			}
		}
		s := string(in)
		if fixable(s, true) {
			continue
		}
		skipped++
		if got := fixAll(s, true); got != s {
			t.Fatalf("%q is not fixable and becomes %q", s, got)
		}
	}
	if skipped < 1000 {
		t.Errorf("only %d strings passed over: the test shows nothing", skipped)
	}
}
