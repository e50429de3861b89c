package checkpoint

import (
	"math"
	"testing"
)

// Golden values of torch.nn.functional.interpolate (bicubic, antialias,
// align_corners false) on the squares of 0 to 8 as a 3x3 image.
func TestAntialiasedResizeIsTorchs(t *testing.T) {
	var x []float32
	for i := range 9 {
		x = append(x, float32(i*i))
	}
	for n, want := range map[int][]float32{
		2: {2.871166, 8.197848, 30.28452, 47.04453},
		5: {-0.7205408, -0.6013795, -0.132075, 1.546185, 2.607334, 1.733737, 2.725885, 4.783582, 8.050234, 9.984369,
			8.471699, 11.05224, 16, 22.15672, 25.67924, 26.09026, 30.25919, 38.09702, 47.1438, 52.25472,
			37.02243, 42.06435, 51.49056, 62.12574, 68.10964},
	} {
		got := interpolate(x, methods["openclip"].taps(3, n), 3, n, 1)
		for i := range want {
			if math.Abs(float64(got[i]-want[i])) > 1e-5 {
				t.Errorf("%d pixels: %d is %v, want %v", n, i, got[i], want[i])
			}
		}
	}
}

func TestGrid(t *testing.T) {
	for tokens, want := range map[int64][2]int{197: {14, 1}, 196: {14, 0}, 2: {1, 1}, 50: {7, 1}, 51: {}, 1: {1, 0}, 0: {}, -1: {}} {
		side, class := grid(tokens)
		if got := [2]int{side, class}; got != want {
			t.Errorf("%d tokens: grid and class token %v, want %v", tokens, got, want)
		}
	}
}
