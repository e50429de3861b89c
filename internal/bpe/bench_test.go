package bpe

import (
	"strings"
	"testing"
)

// captions are texts as image captions are: mostly plain, a few with accents,
// curly quotes or entities.
var captions = strings.Split(`A dog runs on the beach with a ball in its mouth.
Vintage 1960s red leather armchair - mid century modern
photo of the Golden Gate Bridge at sunset, San Francisco
Women’s Running Shoes – Size 8.5 (blue/white)
a close-up photo of a tench.
Café in Montréal, Québec
iPhone 12 Pro Max Case, Shockproof &amp; Waterproof Cover
two people riding bikes down a street next to tall buildings
How to Make the Best Chocolate Chip Cookies Ever | Recipe
stock vector: seamless pattern with hearts and flowers
Nikon D850 DSLR Camera with 24-120mm f/4 lens
The view from our hotel room
Schöne Blumen im Garten
Black & white wall clock 12"
1970 Chevrolet Chevelle SS 454 for sale #1867
a bad photo of a great white shark.`, "\n")

func BenchmarkTokens(b *testing.B) {
	tok := New()
	ids := make([]int32, 77)
	b.ReportAllocs()
	for i := range b.N {
		tok.Tokens(ids, captions[i%len(captions)], 77)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "strings/s")
}
