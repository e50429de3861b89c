package img

import (
	"os"
	"testing"
)

// The photograph that the benchmarks use: 500 x 333, 4:2:0, quality 85.
func benchmarkFile(b *testing.B) []byte {
	data, err := os.ReadFile(fixtures + "/images/china_420.jpg")
	if err != nil {
		b.Fatal(err)
	}
	return data
}

func BenchmarkDecode(b *testing.B) {
	data := benchmarkFile(b)
	for b.Loop() {
		if _, err := Decode(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCrop(b *testing.B) {
	im, err := Decode(benchmarkFile(b))
	if err != nil {
		b.Fatal(err)
	}
	p := Preprocess{Size: 224}
	for b.Loop() {
		p.Crop(im)
	}
}

func BenchmarkToCHW(b *testing.B) {
	c := &RGB{224, 224, make([]byte, 224*224*3)}
	dst := make([]float32, len(c.Pix))
	for b.Loop() {
		ToCHW(dst, c, [3]float32{0.5, 0.5, 0.5}, [3]float32{0.25, 0.25, 0.25})
	}
}
